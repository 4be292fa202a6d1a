-- Takes the run for a new attempt, which from here on is the only one that can write.
-- KEYS[1] run hash   KEYS[2] log
-- ARGV[1] TTL while nothing happens, ms
-- ARGV[2] the log's epoch from here on, if Redis may have lost writes   ARGV[3] live channel
-- ARGV[4] the process that claims
-- Answers {'missing'} · {'ended', status} · {'claimed', attempt, fence, head, run as field, value, …}
local key, log = KEYS[1], KEYS[2]
local ttl, epoch, live, holder = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local run = redis.call('HMGET', key, 'status', 'head', 'fence', 'incarnation', 'holder', 'alone')
local status = run[1]
if not status then return {'missing'} end
if endings[status] then return {'ended', status} end
local attempt = redis.call('HINCRBY', key, 'attempt', 1)
local step = 1
if renewed(key, live, run[4], epoch) then
  -- Claims may be lost too, and their workers live: no fence that one of them may have is given out again.
  step = 100
elseif run[3] ~= '' and run[5] ~= holder then
  -- A fence that is still up is that of a worker that neither ended the run nor gave it back: it died, or hangs. The one
  -- that asks here lives.
  redis.call('HINCRBY', key, 'crashes', 1)
  redis.call('HSET', key, 'blamed', run[6] == run[3] and '1' or '')
end
local fence = redis.call('HINCRBY', key, 'fences', step)
redis.call('HSET', key, 'fence', fence, 'holder', holder, 'claimed', now())
if status == 'queued' then redis.call('HSET', key, 'status', 'running') end
redis.call('HSETNX', key, 'started', now())
redis.call('PEXPIRE', key, ttl)
redis.call('PEXPIRE', log, ttl)
return {'claimed', attempt, fence, tonumber(run[2]), redis.call('HGETALL', key)}
