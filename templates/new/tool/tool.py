"""{name}: a filter. One JSON object comes in on standard input, one goes out on standard output.

It runs in a sandbox without a network and sees no file but what it is given. The same call once more must change
nothing: a tool that does not hold to this is refused.
"""

import json
import re
import sys

WORD = re.compile(r"\be-?mails?\b", re.IGNORECASE)
RIGHT = ("e-mail", "e-mails", "email", "emails")


def offer(text):
    """The values that each offered argument may have now. None: the tool has nothing to do."""
    words = sorted({word for word in WORD.findall(text) if word not in RIGHT})
    return {"offers": {"word": words} if words else {}}


def run(text, args):
    """The result, and the new text where there is one."""
    new, changed = re.subn(rf"\b{re.escape(args['word'])}\b", args["wanted"], text)
    if args["word"] == args["wanted"]:
        changed = 0
    return {"result": {"changed": changed}, "text": new}


def main():
    question = json.load(sys.stdin)  # ask, args, path, text, focus
    answer = offer(question["text"]) if question["ask"] == "offer" else run(question["text"], question["args"])
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
