-- Notes that a suspect run is tried alone from here on, or that it has stood its trial.
-- KEYS[1] run hash
-- ARGV[1] fence   ARGV[2] 'alone' | 'cleared'
-- Answers 1 done · -1 no such run · -2 stale attempt, or the run has ended
local run = redis.call('HMGET', KEYS[1], 'fence', 'status')
if not run[2] then return -1 end
if run[1] ~= ARGV[1] then return -2 end
if ARGV[2] == 'alone' then
  redis.call('HSET', KEYS[1], 'alone', ARGV[1])
  redis.call('HINCRBY', KEYS[1], 'trials', 1)
else
  redis.call('HSET', KEYS[1], 'alone', '', 'crashes', 0)
end
return 1
