-- Keeps what an agent wants back of a step that is about to be told, and what it wanted of the one before: whether the
-- new step comes to be in the log is not known yet. Repeated, it answers as before.
-- KEYS[1] run hash
-- ARGV[1] fence   ARGV[2] the offset that the step will have   ARGV[3] that of the last step in the log; 0: none
-- ARGV[4] the state, JSON
-- Answers 1 done · -1 no such run · -2 stale attempt, or the run has ended
local key = KEYS[1]
local fence, offset, last, state = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local run = redis.call('HMGET', key, 'fence', 'head', 'step')
if not run[2] then return -1 end
if run[1] ~= fence then return -2 end
local known = last .. ':'
-- Another may be there: of an attempt that died before it could tell of the step. That one is void.
if run[3] and run[3]:sub(1, #known) == known then redis.call('HSET', key, 'stepBefore', run[3]) end
redis.call('HSET', key, 'step', offset .. ':' .. state)
return 1
