-- Appends one batch of parts and publishes it. Refuses a stale attempt; skips what the log has already, so that a
-- repeated append is harmless; says whether a cancel was asked for. A batch of 0 parts only asks.
-- KEYS[1] run hash   KEYS[2] log   KEYS[3] live channel
-- ARGV[1] attempt   ARGV[2] offset of the first part   ARGV[3] number of parts
-- ARGV[4] the parts: a JSON array, one part per line   ARGV[5] new TTL, ms; 0 leaves it as it is
-- Answers 1 done · 2 done, and a cancel was asked for · -1 no such run · -2 stale attempt, or the run has ended
--         · -3 the log is behind: parts that were acknowledged are gone
local run = redis.call('HMGET', KEYS[1], 'fence', 'head', 'cancel')
if not run[2] then return -1 end
if run[1] ~= ARGV[1] then return -2 end
local head = tonumber(run[2])
local first = tonumber(ARGV[2])
if first > head + 1 then return -3 end
local last = first + tonumber(ARGV[3]) - 1
if last > head then
  redis.call('XADD', KEYS[2], last .. '-0', 'n', ARGV[3], 'b', ARGV[4])
  redis.call('HSET', KEYS[1], 'head', last)
  redis.call('PUBLISH', KEYS[3], ARGV[2] .. ':' .. ARGV[3] .. '\n' .. ARGV[4])
end
if ARGV[5] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
end
if run[3] then return 2 end
return 1
