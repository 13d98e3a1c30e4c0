"""What Redis does in one step, in Lua."""

from typing import Final

# KEYS: members, owners. ARGV: member, its life (ms), number of lanes, "1" to leave, then lanes it releases.
# Gives: how many lanes are the member's share, then those that it holds. Whoever is dead holds nothing; a member takes
# free lanes up to its share, and is to give up what it holds past it.
HOLD: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local member, lanes = ARGV[1], tonumber(ARGV[3])
for i = 5, #ARGV do
  if redis.call('HGET', KEYS[2], ARGV[i]) == member then redis.call('HDEL', KEYS[2], ARGV[i]) end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[4] == '1' then
  redis.call('ZREM', KEYS[1], member)
  local owners = redis.call('HGETALL', KEYS[2])
  for i = 1, #owners, 2 do
    if owners[i + 1] == member then redis.call('HDEL', KEYS[2], owners[i]) end
  end
  return {0}
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), member)
local members = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(members)
local alive, place = {}, 0
for i, name in ipairs(members) do
  alive[name] = true
  if name == member then place = i end
end
local share = math.floor(lanes / #members)
if place <= lanes % #members then share = share + 1 end
local owners, held = {}, {}
local pairs_ = redis.call('HGETALL', KEYS[2])
for i = 1, #pairs_, 2 do owners[pairs_[i]] = pairs_[i + 1] end
for lane = 0, lanes - 1 do
  if owners[tostring(lane)] == member then held[#held + 1] = lane end
end
for lane = 0, lanes - 1 do
  local owner = owners[tostring(lane)]
  if #held < share and owner ~= member and not (owner and alive[owner]) then
    redis.call('HSET', KEYS[2], tostring(lane), member)
    held[#held + 1] = lane
  end
end
table.insert(held, 1, share)
return held
"""

# KEYS: owners, then the streams of lanes. ARGV: consumer group, member, how many entries, then for each lane its number
# and a cursor: empty for new entries, else where to go on with those that were given out and not acknowledged.
# Gives one table for each lane with something to say: lane, what it is, and "new": entries; "again": next cursor,
# entries, ids that are gone; "lost": nothing, another member holds it; "error": the message. Where no lane has
# anything: lane, "end", the last id of its stream.
# To read and to check who holds the lane in one step is what keeps a member that stood still from taking an entry.
# Members that left, or died, stay consumers of the stream until the next holder of the lane has all that was theirs.
READ: Final = """
local function forget_others(stream)
  for _, about in ipairs(redis.call('XINFO', 'CONSUMERS', stream, ARGV[1])) do
    local consumer = {}
    for j = 1, #about, 2 do consumer[about[j]] = about[j + 1] end
    if consumer.pending == 0 and consumer.name ~= ARGV[2] then
      redis.call('XGROUP', 'DELCONSUMER', stream, ARGV[1], consumer.name)
    end
  end
end
local found, quiet = {}, {}
local left = tonumber(ARGV[3])
for i = 2, #KEYS do
  local lane, cursor = ARGV[2 * i], ARGV[2 * i + 1]
  if left > 0 then
    if redis.call('HGET', KEYS[1], lane) ~= ARGV[2] then
      found[#found + 1] = {lane, 'lost'}
    elseif cursor == '' then
      local read = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', left, 'STREAMS', KEYS[i], '>')
      if read and read.err then
        found[#found + 1] = {lane, 'error', read.err}
      elseif read then
        found[#found + 1] = {lane, 'new', read[1][2]}
        left = left - #read[1][2]
      else
        quiet[#quiet + 1] = i
      end
    else
      local read = redis.pcall('XAUTOCLAIM', KEYS[i], ARGV[1], ARGV[2], 0, cursor, 'COUNT', left)
      if read.err then
        found[#found + 1] = {lane, 'error', read.err}
      else
        found[#found + 1] = {lane, 'again', read[1], read[2], read[3] or {}}
        left = left - #read[2]
        if read[1] == '0-0' then forget_others(KEYS[i]) end
      end
    end
  end
end
if #found == 0 then
  for _, i in ipairs(quiet) do
    local about = redis.call('XINFO', 'STREAM', KEYS[i])
    for j = 1, #about, 2 do
      if about[j] == 'last-generated-id' then found[#found + 1] = {ARGV[2 * i], 'end', about[j + 1]} end
    end
  end
end
return found
"""

# KEYS: meta. ARGV: partitions, version of the layout. Gives what the namespace was made with.
AGREE: Final = """
redis.call('HSETNX', KEYS[1], 'partitions', ARGV[1])
redis.call('HSETNX', KEYS[1], 'version', ARGV[2])
return redis.call('HMGET', KEYS[1], 'partitions', 'version')
"""
