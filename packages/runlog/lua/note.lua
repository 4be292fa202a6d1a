-- Notes something of a run, once.
-- KEYS[1] run hash
-- ARGV[1] field   ARGV[2] value; one that is there stays
-- Answers 1 · 0 no such run
local key, field, value = KEYS[1], ARGV[1], ARGV[2]
if redis.call('EXISTS', key) == 0 then return 0 end
-- A write that frees comes first: where Redis is full it lets a script write on. It is little, and a deletion needs it.
redis.call('HDEL', key, '')
redis.call('HSETNX', key, field, value)
return 1
