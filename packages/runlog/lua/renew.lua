-- Gives the log a new epoch after Redis lost parts of it that somebody may have seen, and the run back to the queue.
-- KEYS[1] run hash
-- ARGV[1] fence   ARGV[2] the new epoch   ARGV[3] live channel
-- Answers 1 done · -1 no such run · -2 stale attempt, or the run has ended
local run = redis.call('HMGET', KEYS[1], 'fence', 'status', 'releasedBy')
if not run[2] then return -1 end
if run[3] == ARGV[1] then return 1 end
if run[1] ~= ARGV[1] then return -2 end
renew(KEYS[1], ARGV[3], ARGV[2])
redis.call('HSET', KEYS[1], 'fence', '', 'releasedBy', ARGV[1])
if run[2] == 'running' then redis.call('HSET', KEYS[1], 'status', 'queued') end
return 1
