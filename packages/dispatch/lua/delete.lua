-- Marks a thread as being deleted: no run enters it from here on. Uses thread.lua.
-- KEYS[1…6], ARGV[1…3] as thread.lua has them
-- Answers {} there is none · {birth, runIds in line…}
if not is_there() then return {} end
complete()
redis.call('HSETNX', thread, 'deleting', now())
return {redis.call('HGET', thread, 'birth'), unpack(redis.call('LRANGE', line, 0, -1))}
