-- Reads a slice of what the trimmed part of a log added up to, and says which log that is.
-- KEYS[1] run hash   KEYS[2] snapshot
-- ARGV[1] the first byte, from 0   ARGV[2] how many bytes
-- Answers {} no such run · {epoch, first offset of the log, bytes of the snapshot (0: there is none), slice}
local key, snapshot = KEYS[1], KEYS[2]
local from, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local run = redis.call('HMGET', key, 'epoch', 'first')
if not run[1] then return {} end
local slice = count > 0 and redis.call('GETRANGE', snapshot, from, from + count - 1) or ''
return {run[1], tonumber(run[2]), redis.call('STRLEN', snapshot), slice}
