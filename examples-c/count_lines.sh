#!/bin/sh
# Prints the README's comparison: lines of code of each example, on plain sockets and with oyez. Blank lines and
# comments are not counted.

cd "$(dirname "$0")" || exit 1

# Takes comments out of C, leaving strings as they are, and counts the lines that still hold something.
count() {
    awk '
    {
        rest = $0
        code = ""
        while (rest != "") {
            if (inside) {
                end = index(rest, "*/")
                if (end == 0) break
                rest = substr(rest, end + 2)
                inside = 0
            } else if (match(rest, /^"([^"\\]|\\.)*"/) || match(rest, /^\047([^\047\\]|\\.)*\047/)) {
                code = code substr(rest, 1, RLENGTH)
                rest = substr(rest, RLENGTH + 1)
            } else if (substr(rest, 1, 2) == "/*") {
                inside = 1
                rest = substr(rest, 3)
            } else if (substr(rest, 1, 2) == "//") {
                break
            } else {
                code = code substr(rest, 1, 1)
                rest = substr(rest, 2)
            }
        }
        if (code ~ /[^ \t]/) lines++
    }
    END { print lines + 0 }' "$1"
}

echo '| example | plain sockets | oyez |'
echo '| --- | ---: | ---: |'
for example in banner echo accept_loop sequential unix_socket errors events; do
    echo "| \`$example.c\` | $(count "plain/$example.c") | $(count "$example.c") |"
done
