-- Deletes a thread's checkpoints. The fence stays: it belongs to who holds the thread.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] fence token, '' for none
-- Answers 1 done · -1 stale attempt, nothing was deleted
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
return 1
