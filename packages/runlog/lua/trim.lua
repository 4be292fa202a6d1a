-- Drops the beginning of a log that grew too long, and keeps what it added up to.
-- KEYS[1] run hash   KEYS[2] log   KEYS[3] snapshot
-- ARGV[1] fence   ARGV[2] the last offset to drop, the end of a batch   ARGV[3] the snapshot, JSON   ARGV[4] TTL, ms
-- Answers 1 done · -1 no such run · -2 stale attempt
local key, log, snapshot = KEYS[1], KEYS[2], KEYS[3]
local fence, first, json, ttl = ARGV[1], tonumber(ARGV[2]) + 1, ARGV[3], ARGV[4]
local run = redis.call('HMGET', key, 'fence', 'head')
if not run[2] then return -1 end
if run[1] ~= fence then return -2 end
redis.call('SET', snapshot, json, 'PX', ttl)
redis.call('XTRIM', log, 'MINID', '=', first .. '-0')
redis.call('HSET', key, 'first', first)
return 1
