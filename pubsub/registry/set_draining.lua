-- pubsub:peer:<name>  hash (fields: see register_peer.lua)
-- pubsub:events       channel: told when the mark is changed
--
-- Marks a registered peer as one that everything is to be moved off, or takes the mark away.
-- KEYS[1]  the key above
-- ARGV[1]  yes or no
-- ARGV[2]  channel, ARGV[3] the event for it
-- Returns  1, or 0 where the peer has no record
if redis.call('HEXISTS', KEYS[1], 'incarnation') == 0 then
  return 0
end
if (redis.call('HGET', KEYS[1], 'draining') or 'no') ~= ARGV[1] then
  redis.call('HSET', KEYS[1], 'draining', ARGV[1])
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return 1
