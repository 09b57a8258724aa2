# Flattens JSON into "path<TAB>value" lines: {"a": {"b": [1]}} gives "a.b.0<TAB>1". Line ends inside strings become
# spaces; what comes after something that is not JSON is left out.

{ text = text $0 " " }

END { at = 1; value("") }

function value(path,    c) {
    skip()
    c = substr(text, at, 1)
    if (c == "{") object(path)
    else if (c == "[") list(path)
    else if (c == "\"") print path "\t" string()
    else if (match(substr(text, at), /^[-+.0-9A-Za-z]+/)) {
        print path "\t" substr(text, at, RLENGTH)
        at += RLENGTH
    } else exit
}

function object(path,    key) {
    at++
    for (skip(); substr(text, at, 1) == "\""; skip()) {
        key = string()
        skip()
        if (substr(text, at, 1) != ":") exit
        at++
        value(path == "" ? key : path "." key)
        skip()
        if (substr(text, at, 1) == ",") at++
    }
    if (substr(text, at, 1) != "}") exit
    at++
}

function list(path,    i) {
    at++
    for (skip(); substr(text, at, 1) != "]"; skip()) {
        if (at > length(text)) exit
        value(path "." i++)
        skip()
        if (substr(text, at, 1) == ",") at++
    }
    at++
}

function string(    out, c, code) {
    at++
    out = ""
    while (at <= length(text)) {
        if (match(substr(text, at), /^[^"\\]+/)) {
            out = out substr(text, at, RLENGTH)
            at += RLENGTH
        }
        c = substr(text, at, 1)
        at++
        if (c == "\"") return out
        c = substr(text, at, 1)
        at++
        if (c == "n" || c == "r" || c == "t") out = out " "
        else if (c == "u") {
            code = hexadecimal(substr(text, at, 4))
            at += 4
            out = out (code < 128 ? sprintf("%c", code) : "?")
        } else if (c != "b" && c != "f") out = out c
    }
    exit
}

function hexadecimal(digits,    i, n) {
    n = 0
    for (i = 1; i <= 4; i++) n = n * 16 + index("0123456789abcdef", tolower(substr(digits, i, 1))) - 1
    return n
}

function skip() {
    if (match(substr(text, at), /^[ \t\r\n]+/)) at += RLENGTH
}
