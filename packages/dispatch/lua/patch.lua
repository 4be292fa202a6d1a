-- Puts metadata in the place of those that are known. Uses thread.lua.
-- KEYS[1…6], ARGV[1…3] as thread.lua has them
-- ARGV[4] the metadata that are known, JSON   ARGV[5] the new ones, JSON
-- Answers {'none'} · {'deleting'} · {'other', the metadata that are there} · {'done', record, state}
local known, metadata = ARGV[4], ARGV[5]
if not is_there() then return {'none'} end
if is_deleting() then return {'deleting'} end
local has = redis.call('HGET', thread, 'metadata') or '{}'
if has ~= known then return {'other', has} end
if metadata ~= known then
  complete()
  touch()
  redis.call('HSET', thread, 'metadata', metadata)
  tell('metadata', '')
end
return {'done', record(), state()}
