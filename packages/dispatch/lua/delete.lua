-- Marks a thread as being deleted: no run enters it from here on. Uses thread.lua.
-- KEYS[1…6], ARGV[1…3] as thread.lua has them
-- Answers {} there is none · {birth, queues that its runs were on, runIds in line}
if not is_there() then return {} end
-- A write that frees comes first: where Redis is full it lets a script write on, and who deletes is to get through.
redis.call('HDEL', thread, '')
complete()
redis.call('HSETNX', thread, 'deleting', now())
local queues = {}
for _, field in ipairs(redis.call('HKEYS', thread)) do
  if string.sub(field, 1, 6) == 'queue:' then queues[#queues + 1] = string.sub(field, 7) end
end
return {redis.call('HGET', thread, 'birth'), queues, redis.call('LRANGE', line, 0, -1)}
