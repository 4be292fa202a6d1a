-- Gives an attempt, and no other, the right to write the thread's checkpoints.
-- KEYS[1] line of active runs   KEYS[2] fence: "<runId>:<attempt>"
-- ARGV[1] runId   ARGV[2] attempt
-- Answers 1 · 0 a later attempt has it, or the run is not the first in line
if redis.call('LINDEX', KEYS[1], 0) ~= ARGV[1] then return 0 end
local fence = redis.call('GET', KEYS[2])
local own = ARGV[1] .. ':'
if fence and string.sub(fence, 1, #own) == own and tonumber(string.sub(fence, #own + 1)) > tonumber(ARGV[2]) then
  return 0
end
redis.call('SET', KEYS[2], own .. ARGV[2])
return 1
