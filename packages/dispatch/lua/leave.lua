-- Takes a run that has ended out of its thread's line, and its worker's right to write checkpoints with it.
-- KEYS[1] line of active runs   KEYS[2] fence
-- ARGV[1] runId
-- Answers the runId that is first in line now, or '' where nobody is
redis.call('LREM', KEYS[1], 0, ARGV[1])
local fence = redis.call('GET', KEYS[2])
if fence and string.sub(fence, 1, #ARGV[1] + 1) == ARGV[1] .. ':' then redis.call('DEL', KEYS[2]) end
return redis.call('LINDEX', KEYS[1], 0) or ''
