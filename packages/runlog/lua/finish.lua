-- Ends the run: appends its terminal part, sets its status and retention, and forgets its agent's steps. Fenced, and
-- exactly once: the same call repeated answers as the first did.
-- KEYS[1] run hash   KEYS[2] log   KEYS[3] snapshot
-- ARGV[1] fence   ARGV[2] offset of the terminal part   ARGV[3] the part, as a JSON array of one
-- ARGV[4] status   ARGV[5] retention, ms   ARGV[6] live channel
-- ARGV[7…] field, value, … to keep
-- Answers 1 done · -1 no such run · -2 stale attempt, or another one ended it · -3 the log is behind
local key, log = KEYS[1], KEYS[2]
local fence, offset, terminal, status = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local retention, live = ARGV[5], ARGV[6]
local run = redis.call('HMGET', key, 'fence', 'head', 'endedBy', 'epoch')
if not run[2] then return -1 end
if run[3] == fence then return 1 end
if run[1] ~= fence then return -2 end
if tonumber(offset) ~= tonumber(run[2]) + 1 then return -3 end
redis.call('XADD', log, offset .. '-0', 'n', 1, 'b', terminal)
redis.call('HSET', key, 'head', offset, 'status', status, 'ended', now(), 'fence', '', 'endedBy', fence,
  unpack(ARGV, 7))
redis.call('HDEL', key, 'step', 'stepBefore')
for _, each in ipairs(KEYS) do redis.call('PEXPIRE', each, retention) end
redis.call('PUBLISH', live, offset .. ':1:' .. run[4] .. ':e\n' .. terminal)
return 1
