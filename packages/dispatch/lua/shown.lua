-- Notes up to which version the owner's index has what happened to a thread.
-- KEYS[1] thread hash
-- ARGV[1] its birth   ARGV[2] the version
-- Answers 1 · 0 the thread is gone, or has noted a later one
local thread, birth, version = KEYS[1], ARGV[1], ARGV[2]
local has = redis.call('HMGET', thread, 'birth', 'shown')
if has[1] ~= birth or tonumber(has[2] or 0) >= tonumber(version) then return 0 end
-- A write that frees comes first: where Redis is full it lets a script write on, and who deletes is to get through.
redis.call('HDEL', thread, '')
redis.call('HSET', thread, 'shown', version)
return 1
