-- Takes a run that has ended out of its thread's line, and its worker's right to write checkpoints with it.
-- KEYS[1] line of active runs   KEYS[2] fence: "<runId>:<fence>"
-- ARGV[1] runId
-- Answers the runId that is first in line now, or '' where nobody is
local line, holder, run = KEYS[1], KEYS[2], ARGV[1]
redis.call('LREM', line, 0, run)
local held = redis.call('GET', holder)
if held and string.sub(held, 1, #run + 1) == run .. ':' then redis.call('DEL', holder) end
return redis.call('LINDEX', line, 0) or ''
