-- Notes that a suspect run is tried alone from here on, or that it has stood its trial.
-- KEYS[1] run hash
-- ARGV[1] fence   ARGV[2] 'alone' | 'cleared'
-- Answers 1 done · -1 no such run · -2 stale attempt, or the run has ended
local key = KEYS[1]
local fence, how = ARGV[1], ARGV[2]
local run = redis.call('HMGET', key, 'fence', 'status')
if not run[2] then return -1 end
if run[1] ~= fence then return -2 end
if how == 'alone' then
  redis.call('HSET', key, 'alone', fence)
  redis.call('HINCRBY', key, 'trials', 1)
else
  redis.call('HSET', key, 'alone', '', 'crashes', 0)
end
return 1
