-- What the scripts share. It stands before each of them.
-- The KEYS of a room are always: 1 meta, 2 messages, 3 changes, 4 snapshot, 5 by (see keys.rs).

local function now_ms()
    local t = redis.call('TIME')
    return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- A number in full: Lua's own way gives up at 1e+14.
local function text(n)
    return string.format('%.0f', n)
end

-- What is told of a room in a few words; nil: there is no such room.
local function head()
    local m = redis.call('HMGET', KEYS[1], 'epoch', 'name', 'change', 'offset', 'time', 'guard', 'line')
    if not m[1] then
        return nil
    end
    return {
        epoch = m[1], name = m[2] or '', change = tonumber(m[3]) or 0, offset = tonumber(m[4]) or 0,
        time = tonumber(m[5]) or 0, guard = tonumber(m[6]) or 0, line = m[7] or '',
    }
end

-- Whether the room has everything that a node knows of.
local function has(m, epoch, change, offset)
    return m and m.epoch == epoch and m.change >= tonumber(change) and m.offset >= tonumber(offset)
end

-- The time of the next entry: never less than that of the last one, whatever becomes of the clock.
local function next_time(m)
    return math.max(now_ms(), m.time)
end

local function last_for(ttl_ms)
    for i = 1, 5 do
        redis.call('PEXPIRE', KEYS[i], ttl_ms)
    end
end

-- A room as a whole. It is doubtful if it is of another line than the one that is going on: something was lost since it was written, and
-- nobody has vouched for it. Of its messages only the last ones are told: members need no more of them than when they last spoke.
local function opened(m, line)
    local kept = redis.call('HMGET', KEYS[4], 'change', 'body')
    local since = text(tonumber(kept[1] or '0'))
    local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    return {
        'opened', m.epoch, m.name, text(m.change), text(m.offset), text(m.time), first and first[1] or '',
        kept[2] and kept[1] or '', kept[2] or '',
        redis.call('XRANGE', KEYS[3], '(' .. since .. '-0', '+'),
        redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 256), m.line == line and '0' or '1',
    }
end

-- Makes a room that has nothing in it. What writes most comes first: without memory for it nothing is changed.
local function make(epoch, name, line)
    redis.call('HSET', KEYS[1], 'epoch', epoch, 'name', name, 'change', '0', 'offset', '0',
        'time', text(now_ms()), 'guard', '0', 'members', '0', 'line', line)
    redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
end
