-- Gives the log a new epoch after Redis lost parts of it that somebody may have seen, and the run back to the queue.
-- KEYS[1] run hash
-- ARGV[1] fence   ARGV[2] the new epoch   ARGV[3] live channel
-- Answers 1 done · -1 no such run · -2 stale attempt, or the run has ended
local key = KEYS[1]
local fence, epoch, live = ARGV[1], ARGV[2], ARGV[3]
local run = redis.call('HMGET', key, 'fence', 'status', 'releasedBy')
if not run[2] then return -1 end
if run[3] == fence then return 1 end
if run[1] ~= fence then return -2 end
renew(key, live, epoch)
redis.call('HSET', key, 'fence', '', 'releasedBy', fence)
if run[2] == 'running' then redis.call('HSET', key, 'status', 'queued') end
return 1
