-- Puts what dump.lua answered under another thread's keys.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] fence token, '' for none   ARGV[2…6] the dumps, '' for a key that is not there
-- Answers 1 done · -1 stale attempt · -4 the thread has checkpoints already; on a negative answer nothing was written
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if redis.call('EXISTS', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]) > 0 then return -4 end
for i = 2, 6 do
  if ARGV[i] ~= '' then redis.call('RESTORE', KEYS[i], 0, ARGV[i]) end
end
return 1
