-- Gives a run back, for another worker to claim. Its partial stays in the log. Repeated, it answers as before.
-- KEYS[1] run hash
-- ARGV[1] fence
-- Answers 1 done · -1 no such run · -2 stale attempt, or the run has ended
local key, fence = KEYS[1], ARGV[1]
local run = redis.call('HMGET', key, 'fence', 'status', 'releasedBy')
if not run[2] then return -1 end
if run[3] == fence then return 1 end
if run[1] ~= fence then return -2 end
redis.call('HSET', key, 'fence', '', 'releasedBy', fence)
if run[2] == 'running' then redis.call('HSET', key, 'status', 'queued') end
return 1
