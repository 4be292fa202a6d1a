-- Gives an attempt, and no other, the right to write the thread's checkpoints.
-- KEYS[1] line of active runs   KEYS[2] fence: "<runId>:<fence>"
-- ARGV[1] runId   ARGV[2] the attempt's fence
-- Answers 1 · 0 a later attempt has it, or the run is not the first in line
local line, holder = KEYS[1], KEYS[2]
local run, fence = ARGV[1], tonumber(ARGV[2])
if redis.call('LINDEX', line, 0) ~= run then return 0 end
local held = redis.call('GET', holder)
local own = run .. ':'
if held and string.sub(held, 1, #own) == own and tonumber(string.sub(held, #own + 1)) > fence then return 0 end
redis.call('SET', holder, own .. ARGV[2])
return 1
