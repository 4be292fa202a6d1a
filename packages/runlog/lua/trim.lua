-- Drops the beginning of a log that grew too long, and keeps what it added up to.
-- KEYS[1] run hash   KEYS[2] log   KEYS[3] snapshot
-- ARGV[1] fence   ARGV[2] the last offset to drop, the end of a batch   ARGV[3] the snapshot, JSON   ARGV[4] TTL, ms
-- Answers 1 done · -1 no such run · -2 stale attempt
local run = redis.call('HMGET', KEYS[1], 'fence', 'head')
if not run[2] then return -1 end
if run[1] ~= ARGV[1] then return -2 end
redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4])
redis.call('XTRIM', KEYS[2], 'MINID', '=', (tonumber(ARGV[2]) + 1) .. '-0')
redis.call('HSET', KEYS[1], 'first', tonumber(ARGV[2]) + 1)
return 1
