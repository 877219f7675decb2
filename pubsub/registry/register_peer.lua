-- pubsub:peer:<name>  hash, expires after the ttl: address, incarnation, version, started_at, heartbeat_at
--                     (microseconds), reachable (yes or no), zone (where one is named), draining (yes or no, once
--                     it has been set: by set_draining.lua, until the peer is started anew), load.<figure>
-- pubsub:events       channel: told when the record is written
--
-- Writes a peer's record unless another incarnation has the better right to the name.
-- KEYS[1]   the key above
-- ARGV[1]   incarnation, "<node id>.<start count>"
-- ARGV[2]   ttl in milliseconds
-- ARGV[3]   channel, ARGV[4] the event for it
-- ARGV[5..] all fields, as HSET takes them
-- Returns   {'registered'}, or {'held' or 'superseded', the record in the way as HGETALL gives it}
local function parts(incarnation)
  local node, count = string.match(incarnation, '^(.*)%.(%d+)$')
  return node or incarnation, tonumber(count or 0)
end

local holder = redis.call('HGET', KEYS[1], 'incarnation')
if holder then
  local node, count = parts(ARGV[1])
  local holder_node, holder_count = parts(holder)
  if node ~= holder_node then
    return {'held', redis.call('HGETALL', KEYS[1])}
  elseif count < holder_count then
    return {'superseded', redis.call('HGETALL', KEYS[1])}
  end
end
local draining = holder == ARGV[1] and redis.call('HGET', KEYS[1], 'draining')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 5))
if draining then
  redis.call('HSET', KEYS[1], 'draining', draining)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return {'registered'}
