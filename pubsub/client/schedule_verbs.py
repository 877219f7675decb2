"""The verbs of `Client` about messages that were published for later."""

from __future__ import annotations

from datetime import datetime

from pubsub.client.asking import Counted, OwnerVerbs
from pubsub.errors import InvalidRequestError, ScheduledNotFoundError, shown
from pubsub.model import ScheduledMessage, us_from_datetime
from pubsub.protocol import messages as m

PAGE_MESSAGES = 1000


class ScheduleVerbs(OwnerVerbs):
    """Mixed into `Client`. Each of them may raise what finding and asking a topic's owner may: `Client.query`."""

    async def scheduled(self, topic: str, *, limit: int = 100) -> list[ScheduledMessage]:
        """The messages that are held for later, those first that are due first. `limit`: so many at most."""
        self._check_owner_verb(topic)
        if type(limit) is not int or limit < 1:
            raise InvalidRequestError(f"a limit is a number from 1 on, not {shown(limit)}")
        found: list[ScheduledMessage] = []
        while len(found) < limit:
            page = await self._scheduled_page(topic, found, min(limit - len(found), PAGE_MESSAGES))
            found += page
            if not page:
                break
        return found

    async def _scheduled_page(
        self, topic: str, before: list[ScheduledMessage], limit: int
    ) -> list[ScheduledMessage]:
        after_us = us_from_datetime(datetime.fromisoformat(before[-1].deliver_at)) if before else 0
        after_id = before[-1].schedule_id if before else 0
        reply = await self._ask_owner(
            topic,
            lambda request, _: m.Scheduled(
                id=request, topic=topic, after_us=after_us, after_id=after_id, limit=limit
            ),
            m.ScheduledList,
        )
        return reply.messages

    async def cancel_scheduled(self, topic: str, *schedule_ids: int) -> None:
        """Let go of messages that are held for later: they will not be delivered.

        Raises:
            ScheduledNotFoundError: some are not held, or not any more: `data["schedule_ids"]`. The others are
                cancelled all the same.
        """
        self._check_owner_verb(topic)
        for number in schedule_ids:
            if type(number) is not int or not 0 < number < 2**63:
                raise InvalidRequestError(f"a schedule id is a number from 1 on, not {shown(number)}")
        if not schedule_ids:
            raise InvalidRequestError("cancel_scheduled takes the schedule ids of the messages, one at least")
        gone: list[int] = []
        errors: list[ScheduledNotFoundError] = []
        for start in range(0, len(schedule_ids), PAGE_MESSAGES):
            part = list(schedule_ids[start : start + PAGE_MESSAGES])
            try:
                await self._cancel(topic, part)
            except ScheduledNotFoundError as error:
                errors.append(error)
                gone += error.data.get("schedule_ids", part)
        if errors:
            errors[0].data["schedule_ids"] = gone
            raise errors[0]

    async def _cancel(self, topic: str, schedule_ids: list[int]) -> None:
        make = Counted(lambda request, _: m.CancelScheduled(request, topic, schedule_ids))
        try:
            await self._ask_owner(topic, make, m.Done)
        except ScheduledNotFoundError as error:
            if make.repeated:
                error.message += "; an attempt before this one got no answer, and may have cancelled them"
            raise
