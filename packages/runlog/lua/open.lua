-- Creates a queued run. Idempotent: a run that is there already stays as it is.
-- KEYS[1] run hash
-- ARGV[1] TTL while nothing happens, ms   ARGV[2…] field, value, field, value, …
-- Answers {1} created · {0, owner, thread, status, epoch} it was there already
local key, ttl = KEYS[1], ARGV[1]
if redis.call('EXISTS', key) == 1 then
  local run = redis.call('HMGET', key, 'owner', 'thread', 'status', 'epoch')
  return {0, run[1], run[2], run[3], run[4]}
end
redis.call('HSET', key, 'created', now(), 'incarnation', incarnation(), unpack(ARGV, 2))
redis.call('PEXPIRE', key, ttl)
return {1}
