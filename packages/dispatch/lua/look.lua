-- A thread's record. Uses thread.lua.
-- KEYS[1…6], ARGV[1…3] as thread.lua has them
-- Answers {} there is none · {record, metadata, for how many ms it has been being deleted or -1, state}
if not is_there() then return {} end
local has = redis.call('HMGET', thread, 'metadata', 'deleting')
return {record(), has[1] or '{}', has[2] and math.max(0, now() - tonumber(has[2])) or -1, state()}
