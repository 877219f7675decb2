-- pubsub:registry  hash: generation (random text), created_at (microseconds), schema, seen_at (microseconds: when an
--                  index last looked), process (run_id of the Redis, where it tells one)
--
-- Begins a life of the registry unless one is under way, and tells which one is. One that has forgotten when the
-- caller saw it last has been set back to an older state: a new life begins. So it does in another process, which may
-- have been started from any state.
-- KEYS[1]  the key above
-- ARGV     generation, created_at and schema of the life to begin; what the caller saw as seen_at the last time, or
--          0; now; run_id of the process, or empty
-- Returns  generation, created_at, schema, seen_at
local found = redis.call('HMGET', KEYS[1], 'generation', 'seen_at', 'process')
local seen_at = tonumber(found[2] or 0) or 0
local another = ARGV[6] ~= '' and found[3] and found[3] ~= ARGV[6]
if not found[1] or seen_at < tonumber(ARGV[4]) or another then
  redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'created_at', ARGV[2], 'schema', ARGV[3])
end
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'process', ARGV[6])
end
local latest = ARGV[5]
if tonumber(ARGV[4]) > tonumber(latest) then
  latest = ARGV[4]
end
if not found[2] or seen_at < tonumber(latest) then
  redis.call('HSET', KEYS[1], 'seen_at', latest)
end
return redis.call('HMGET', KEYS[1], 'generation', 'created_at', 'schema', 'seen_at')
