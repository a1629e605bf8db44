-- The sessions that hold a nickname. KEYS: 1 the nickname's, as in claim.lua.
-- Returns {spelling, session, session..}, or {}: nobody does.
local now = now_ms()
local found = {}
local held = redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
    local expires, spelling = string.match(held[i + 1], '^(%d+) %d %S* (.*)$')
    if expires and tonumber(expires) >= now then
        if #found == 0 then
            found[1] = spelling
        end
        found[#found + 1] = held[i]
    end
end
return found
