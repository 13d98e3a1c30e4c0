"""What Redis does in one step, in Lua."""

from typing import Final

# KEYS: members, owners, redrives. ARGV: member, its life (ms), number of lanes, "1" to leave, the microsecond of its
# last beat or "", then lanes it releases.
# Gives: the microsecond of this beat, the redrive requests since the last one, how many lanes are the member's share,
# then those that it holds. Whoever is dead holds nothing; a member takes free lanes up to its share, and is to give up
# what it holds past it.
HOLD: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local member, lanes = ARGV[1], tonumber(ARGV[3])
for i = 6, #ARGV do
  if redis.call('HGET', KEYS[2], ARGV[i]) == member then redis.call('HDEL', KEYS[2], ARGV[i]) end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[4] == '1' then
  redis.call('ZREM', KEYS[1], member)
  local owners = redis.call('HGETALL', KEYS[2])
  for i = 1, #owners, 2 do
    if owners[i + 1] == member then redis.call('HDEL', KEYS[2], owners[i]) end
  end
  return {}
end
local redrives = {}
if ARGV[5] ~= '' then
  redrives = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[5], '+inf', 'LIMIT', 0, 1000)
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
table.insert(held, 1, redrives)
table.insert(held, 1, time[1] * 1000000 + time[2])
return held
"""

# KEYS: redrives. ARGV: a redrive request, for how many milliseconds it may be seen.
# Members see it at their next beat: all that have the handler, and each once.
ASK_FOR_REDRIVE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now - tonumber(ARGV[2]) * 1000))
redis.call('ZADD', KEYS[1], string.format('%d', now), ARGV[1])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS: owners, then the streams of lanes. ARGV: consumer group, member, how many entries, then for each lane its number
# and a cursor: empty for new entries, "?" for new entries or else the end of the lane, anything else is where to go on
# with those that were given out and not acknowledged.
# Gives tables: lane, what it is, and "new": entries; "again": next cursor, entries, ids that are gone; "end": the last
# id of its stream; "lost": nothing, another member holds it; "error": the message.
# To read and to check who holds the lane in one step is what keeps a member that stood still from taking an entry.
# Members that left, or died, stay consumers of the stream until the next holder of the lane has all that was theirs.
READ: Final = """
local group, member, left = ARGV[1], ARGV[2], tonumber(ARGV[3])
local function forget_others(stream)
  for _, about in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    local consumer = {}
    for j = 1, #about, 2 do consumer[about[j]] = about[j + 1] end
    if consumer.pending == 0 and consumer.name ~= member then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer.name)
    end
  end
end
local function read(count, streams)
  local command = {'XREADGROUP', 'GROUP', group, member, 'COUNT', count, 'STREAMS'}
  for _, i in ipairs(streams) do command[#command + 1] = KEYS[i] end
  for _ in ipairs(streams) do command[#command + 1] = '>' end
  return redis.pcall(unpack(command))
end
local lanes, found, fresh = {}, {}, {}
for i = 2, #KEYS do lanes[i - 1] = ARGV[2 * i] end
local owners = redis.call('HMGET', KEYS[1], unpack(lanes))
for i = 2, #KEYS do
  local lane, cursor = ARGV[2 * i], ARGV[2 * i + 1]
  if owners[i - 1] ~= member then
    found[#found + 1] = {lane, 'lost'}
  elseif cursor == '' or cursor == '?' then
    fresh[#fresh + 1] = i
  elseif left > 0 then
    local claimed = redis.pcall('XAUTOCLAIM', KEYS[i], group, member, 0, cursor, 'COUNT', left)
    if claimed.err then
      found[#found + 1] = {lane, 'error', claimed.err}
    else
      found[#found + 1] = {lane, 'again', claimed[1], claimed[2], claimed[3] or {}}
      left = left - #claimed[2]
      if claimed[1] == '0-0' then forget_others(KEYS[i]) end
    end
  end
end
while #fresh > left do fresh[#fresh] = nil end
if #fresh > 0 then
  local each = math.floor(left / #fresh)
  local streams, by_name = read(each, fresh), {}
  if streams and streams.err then
    for _, i in ipairs(fresh) do
      local one = read(1, {i})
      if one and one.err then
        found[#found + 1] = {ARGV[2 * i], 'error', one.err}
      elseif one then
        found[#found + 1] = {ARGV[2 * i], 'new', one[1][2]}
      end
    end
    return found
  end
  for _, stream in ipairs(streams or {}) do by_name[stream[1]] = stream[2] end
  local full = {}
  for _, i in ipairs(fresh) do
    local entries = by_name[KEYS[i]]
    if entries then
      found[#found + 1] = {ARGV[2 * i], 'new', entries}
      left = left - #entries
      if #entries == each then full[#full + 1] = i end
    elseif ARGV[2 * i + 1] == '?' then
      local about = redis.call('XINFO', 'STREAM', KEYS[i])
      for j = 1, #about, 2 do
        if about[j] == 'last-generated-id' then found[#found + 1] = {ARGV[2 * i], 'end', about[j + 1]} end
      end
    end
  end
  for _, i in ipairs(full) do
    local more = left > 0 and read(left, {i})
    if more then
      found[#found + 1] = {ARGV[2 * i], 'new', more[1][2]}
      left = left - #more[1][2]
    end
  end
end
return found
"""

# KEYS: lanes. ARGV: how many milliseconds events are kept, by the server's clock: that of a publisher may be wrong.
TRIM: Final = """
local time = redis.call('TIME')
local oldest = time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[1])
for _, lane in ipairs(KEYS) do redis.call('XTRIM', lane, 'MINID', '~', string.format('%d', math.max(oldest, 0))) end
return 1
"""

# KEYS: meta. ARGV: partitions, version of the layout. Gives what the namespace was made with.
AGREE: Final = """
redis.call('HSETNX', KEYS[1], 'partitions', ARGV[1])
redis.call('HSETNX', KEYS[1], 'version', ARGV[2])
return redis.call('HMGET', KEYS[1], 'partitions', 'version')
"""
