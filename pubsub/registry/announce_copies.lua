-- pubsub:peer:<name>:topics  set: the topics of which the peer holds a copy
--
-- Replaces the set as a whole.
-- KEYS[1]  the key above
-- ARGV     the topic names
redis.call('DEL', KEYS[1])
for first = 1, #ARGV, 1000 do
  redis.call('SADD', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
return #ARGV
