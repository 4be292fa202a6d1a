-- Appends batches of parts, one each of several runs, and publishes them. A batch of a stale attempt is refused; what
-- the log has already is skipped, so that a repeated append is harmless; a cancel that was asked for is told. A batch of
-- 0 parts only asks. One run's trouble is none of the others'.
-- For each run two keys and six arguments:
-- KEYS[1] run hash   KEYS[2] log
-- ARGV[1] fence   ARGV[2] offset of the first part   ARGV[3] number of parts
-- ARGV[4] the parts: a JSON array, one part per line   ARGV[5] new TTL, ms; 0 leaves it as it is
-- ARGV[6] live channel
-- Answers for each run 1 done · 2 done, and a cancel was asked for · -1 no such run · -2 stale attempt, or the run has
--         ended · -3 the log is behind: parts that were acknowledged are gone · an error's text
local function append(k, a)
  local key, log = KEYS[k + 1], KEYS[k + 2]
  local fence, offset, count, parts = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  local ttl, live = ARGV[a + 5], ARGV[a + 6]
  local run = redis.call('HMGET', key, 'fence', 'head', 'cancel', 'epoch')
  if not run[2] then return -1 end
  if run[1] ~= fence then return -2 end
  local head, first = tonumber(run[2]), tonumber(offset)
  if first > head + 1 then return -3 end
  local last = first + tonumber(count) - 1
  if last > head then
    redis.call('XADD', log, last .. '-0', 'n', count, 'b', parts)
    redis.call('HSET', key, 'head', last)
    redis.call('PUBLISH', live, offset .. ':' .. count .. ':' .. run[4] .. '\n' .. parts)
  end
  if ttl ~= '0' then
    redis.call('PEXPIRE', key, ttl)
    redis.call('PEXPIRE', log, ttl)
  end
  if run[3] then return 2 end
  return 1
end

local answers = {}
for i = 1, #KEYS / 2 do
  local ok, answer = pcall(append, 2 * (i - 1), 6 * (i - 1))
  -- Redis before 7 gives an error as its text, later ones as a table.
  answers[i] = ok and answer or tostring(type(answer) == 'table' and answer.err or answer)
end
return answers
