-- pubsub:topic:<name>:subscribers  hash, expires after the ttl: subscription -> {"peer", "since", "until"} (JSON,
--                                  microseconds)
--
-- Replaces the entries of one peer; drops those of peers that have stopped reporting.
-- KEYS[1]   the key above
-- ARGV[1]   peer
-- ARGV[2]   ttl in milliseconds
-- ARGV[3]   now, in microseconds
-- ARGV[4..] the peer's entries, as HSET takes them
local entries = redis.call('HGETALL', KEYS[1])
for i = 1, #entries, 2 do
  local sound, entry = pcall(cjson.decode, entries[i + 1])
  if not sound or type(entry) ~= 'table' or entry['peer'] == ARGV[1]
      or not ((tonumber(entry['until']) or 0) > tonumber(ARGV[3])) then
    redis.call('HDEL', KEYS[1], entries[i])
  end
end
for first = 4, #ARGV, 1000 do
  redis.call('HSET', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
