-- Put before the scripts that ask whether Redis is still the one that it was. A data set gets a new replication id when
-- its server starts, and when a replica becomes a master: writes that were acknowledged are only ever lost with one of
-- these. '' where Redis does not say: then nothing is noticed.
local function incarnation()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or ''
end

-- Whether Redis may have lost writes to this run since it was opened, or last claimed, under `known`. If so its log
-- gets the epoch `epoch`, and everyone who follows it is told to look: others may be written over the parts they saw.
local function renewed(run, live, known, epoch)
  local now = incarnation()
  if now == known then return false end
  redis.call('HSET', run, 'incarnation', now, 'epoch', epoch)
  redis.call('PUBLISH', live, '0:0:' .. epoch .. '\n')
  return true
end

