-- Put before the scripts that ask whether Redis is still the one that it was. A data set gets a new replication id when
-- its server starts, and when a replica becomes a master: writes that were acknowledged are only ever lost with one of
-- these. '' where Redis does not say: then nothing is noticed.
local function incarnation()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or ''
end

-- Gives the log a new epoch: others may be written over parts of it that somebody saw and that are lost. What is left is
-- of both epochs, and `earlier` says how far that goes. Everyone who follows the run is told to look.
local function renew(run, live, epoch)
  local was = redis.call('HMGET', run, 'epoch', 'head')
  redis.call('HSET', run, 'incarnation', incarnation(), 'epoch', epoch, 'earlier', was[2] .. ':' .. was[1])
  redis.call('PUBLISH', live, '0:0:' .. epoch .. '\n')
end

-- Whether Redis may have lost writes to this run since it was opened, or last claimed, under the incarnation `known`; if
-- so its log gets the epoch `epoch`.
local function renewed(run, live, known, epoch)
  if incarnation() == known then return false end
  renew(run, live, epoch)
  return true
end

