-- pubsub:peer:<name>  hash, expires after the ttl (fields: see register_peer.lua)
--
-- Keeps a peer's record alive if the incarnation that beats holds it. Never makes a record: an incomplete one
-- would hide that the peer has to register again.
-- KEYS[1]   the key above
-- ARGV[1]   incarnation
-- ARGV[2]   ttl in milliseconds
-- ARGV[3..] the fields that changed, as HSET takes them
-- Returns   'ok', 'missing' or 'superseded'
local holder = redis.call('HGET', KEYS[1], 'incarnation')
if not holder then
  return 'missing'
elseif holder ~= ARGV[1] then
  return 'superseded'
end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'ok'
