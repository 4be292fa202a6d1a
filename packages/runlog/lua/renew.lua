-- Gives the log a new epoch after Redis lost parts of it that somebody may have seen, and the run back to the queue.
-- What is left of the log stays. Everyone who follows the run is told to look.
-- KEYS[1] run hash
-- ARGV[1] attempt   ARGV[2] the new epoch   ARGV[3] live channel
-- Answers 1 done · -1 no such run · -2 stale attempt, or the run has ended
local run = redis.call('HMGET', KEYS[1], 'fence', 'status', 'releasedBy')
if not run[2] then return -1 end
if run[3] == ARGV[1] then return 1 end
if run[1] ~= ARGV[1] then return -2 end
redis.call('HSET', KEYS[1], 'incarnation', incarnation(), 'epoch', ARGV[2], 'fence', '', 'releasedBy', ARGV[1])
if run[2] == 'running' then redis.call('HSET', KEYS[1], 'status', 'queued') end
redis.call('PUBLISH', ARGV[3], '0:0:' .. ARGV[2] .. '\n')
return 1
