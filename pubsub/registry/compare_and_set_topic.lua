-- pubsub:topic:<name>  hash: id, owner, epoch, version, in_sync and replicas (JSON arrays), policy (JSON),
--                      created_at (microseconds), leaving (JSON array, where there are such), life (of a
--                      replicated topic: the generation in which its owner was decided), lossy (yes, where it is)
-- pubsub:events        channel: told when the record changes, in the same step
--
-- Writes or deletes a topic's record if it still is the one that was read. A hash without a sound id, epoch and
-- version counts as absent, so that a damaged record does not stay for ever.
-- KEYS[1]      the key above
-- ARGV[1..3]   id, epoch and version as read; three empty texts: there was no record
-- ARGV[4]      channel, ARGV[5] the event for it
-- ARGV[6..]    all fields of the new record, as HSET takes them; none: delete
-- Returns      {1 if changed, or 0; the record that holds now, as HGETALL gives it}
local found = redis.call('HMGET', KEYS[1], 'id', 'epoch', 'version', 'owner')
for i = 1, 3 do
  if not (found[4] and found[i] and string.match(found[i], '^%d+$')) then
    found = {'', '', ''}
    break
  end
end
if found[1] ~= ARGV[1] or found[2] ~= ARGV[2] or found[3] ~= ARGV[3] then
  return {0, redis.call('HGETALL', KEYS[1])}
end
redis.call('DEL', KEYS[1])
if ARGV[6] then
  redis.call('HSET', KEYS[1], unpack(ARGV, 6))
end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return {1, redis.call('HGETALL', KEYS[1])}
