-- Puts a thread's head at a checkpoint, or takes it away.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] fence token, '' for none   ARGV[2] namespace   ARGV[3] checkpoint id, '' for no head
-- Answers 1 done · -1 stale attempt · -2 no such checkpoint; on a negative answer nothing was written
local fence, head, checkpoints = KEYS[1], KEYS[2], KEYS[3]
local token, ns, id = ARGV[1], ARGV[2], ARGV[3]
if token ~= '' and redis.call('GET', fence) ~= token then return -1 end
if id == '' then
  redis.call('HDEL', head, ns)
  return 1
end
if redis.call('HEXISTS', checkpoints, ns .. '\0' .. id) == 0 then return -2 end
redis.call('HSET', head, ns, id)
return 1
