-- Removes all that a thread has, if it is being deleted.
-- KEYS[1] thread hash   KEYS[2…] all else that a thread has
-- ARGV[1] its birth
-- Answers 1 · 0 there is no such thread that is being deleted
local has = redis.call('HMGET', KEYS[1], 'birth', 'deleting')
if has[1] ~= ARGV[1] or not has[2] then return 0 end
redis.call('UNLINK', unpack(KEYS))
return 1
