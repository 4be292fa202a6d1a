-- Takes the run for a new attempt, which from here on is the only one that can write.
-- KEYS[1] run hash   KEYS[2] log
-- ARGV[1] now, ms since 1970   ARGV[2] TTL while nothing happens, ms
-- ARGV[3] the log's epoch from here on, if Redis may have lost writes   ARGV[4] live channel
-- ARGV[5] the process that claims   ARGV[6] how long an attempt must have lasted to be no suspect, ms
-- Answers {'missing'} · {'ended', status} · {'claimed', attempt, fence, head, run as field, value, …}
local run = redis.call('HMGET', KEYS[1], 'status', 'head', 'fence', 'incarnation', 'holder', 'claimed', 'alone')
local status = run[1]
if not status then return {'missing'} end
if status == 'completed' or status == 'interrupted' or status == 'cancelled' or status == 'failed' then
  return {'ended', status}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
local step = 1
if renewed(KEYS[1], ARGV[4], run[4], ARGV[3]) then
  -- Claims may be lost too, and their workers live: no fence that one of them may have is given out again.
  step = 100
elseif run[3] ~= '' and run[5] ~= ARGV[5] then
  -- A fence that is still up is that of a worker that neither ended the run nor gave it back: it died, or hangs. The one
  -- that asks here lives.
  local isOld = run[6] and now - run[6] >= tonumber(ARGV[6])
  if isOld then redis.call('HSET', KEYS[1], 'crashes', 1)
  else redis.call('HINCRBY', KEYS[1], 'crashes', 1) end
  redis.call('HSET', KEYS[1], 'blamed', run[7] == run[3] and '1' or '')
end
local fence = redis.call('HINCRBY', KEYS[1], 'fences', step)
redis.call('HSET', KEYS[1], 'fence', fence, 'holder', ARGV[5], 'claimed', now)
if status == 'queued' then redis.call('HSET', KEYS[1], 'status', 'running') end
redis.call('HSETNX', KEYS[1], 'started', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {'claimed', attempt, fence, tonumber(run[2]), redis.call('HGETALL', KEYS[1])}
