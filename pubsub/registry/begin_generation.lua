-- pubsub:registry  hash: generation (random text), created_at (microseconds), schema
--
-- Begins a life of the registry unless one is under way, and tells which one is.
-- KEYS[1]  the key above
-- ARGV     generation, created_at and schema of the life to begin
-- Returns  the three fields
if redis.call('HEXISTS', KEYS[1], 'generation') == 0 then
  redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'created_at', ARGV[2], 'schema', ARGV[3])
end
return redis.call('HMGET', KEYS[1], 'generation', 'created_at', 'schema')
