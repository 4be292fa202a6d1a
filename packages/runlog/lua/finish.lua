-- Ends the run: appends its terminal part, sets its status and retention. Fenced, and exactly once: the same call
-- repeated answers as the first did.
-- KEYS[1] run hash   KEYS[2] log   KEYS[3] snapshot
-- ARGV[1] fence   ARGV[2] offset of the terminal part   ARGV[3] the part, as a JSON array of one
-- ARGV[4] status   ARGV[5] retention, ms   ARGV[6] live channel
-- ARGV[7…] field, value, … to keep
-- Answers 1 done · -1 no such run · -2 stale attempt, or another one ended it · -3 the log is behind
local run = redis.call('HMGET', KEYS[1], 'fence', 'head', 'endedBy', 'epoch')
if not run[2] then return -1 end
if run[3] == ARGV[1] then return 1 end
if run[1] ~= ARGV[1] then return -2 end
local offset = tonumber(ARGV[2])
if offset ~= tonumber(run[2]) + 1 then return -3 end
redis.call('XADD', KEYS[2], ARGV[2] .. '-0', 'n', 1, 'b', ARGV[3])
redis.call('HSET', KEYS[1], 'head', ARGV[2], 'status', ARGV[4], 'ended', now(), 'fence', '', 'endedBy', ARGV[1],
  unpack(ARGV, 7))
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[5]) end
redis.call('PUBLISH', ARGV[6], ARGV[2] .. ':1:' .. run[4] .. ':e\n' .. ARGV[3])
return 1
