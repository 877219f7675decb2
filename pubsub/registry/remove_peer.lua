-- pubsub:peer:<name>  hash (fields: see register_peer.lua)
-- pubsub:events       channel: told when the record is removed
--
-- Removes a peer's record, if the incarnation that says goodbye holds it.
-- KEYS[1]  the key above
-- ARGV[1]  incarnation
-- ARGV[2]  channel, ARGV[3] the event for it
-- Returns  1 if the record is gone, 0 if another incarnation holds it
local holder = redis.call('HGET', KEYS[1], 'incarnation')
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
