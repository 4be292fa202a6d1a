-- Puts a thread's head at a checkpoint, or takes it away.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] fence token, '' for none   ARGV[2] namespace   ARGV[3] checkpoint id, '' for no head
-- Answers 1 done · -1 stale attempt · -2 no such checkpoint; on a negative answer nothing was written
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[2], ARGV[2])
  return 1
end
if redis.call('HEXISTS', KEYS[3], ARGV[2] .. '\0' .. ARGV[3]) == 0 then return -2 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
