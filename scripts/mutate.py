#!/usr/bin/env python3
"""Breaks one line at a time and says which test notices: mutations of source files, tried in a worktree of their own.

usage: mutate.py --files src/engine,src/cli --count 60 --seed 1 [--ctest-args '-L cpu -E RealModels'] [--out OUT]
       mutate.py --at src/engine/sampler.cc:41 ...      every mutation of these lines
       mutate.py --list ...                             shows what would be tried

Each mutation is one changed line: an operator, a constant, a condition, a dropped statement, exchanged arguments, a
misspelt key. For each, the test programs that the file reaches are built and run one after the other, those of the
file's own folder first, until one fails. OUT.json and OUT.md get a row each: file, line, before, after, verdict:

  killed           by the test (or the time limit of the program) that is named
  survived         every test that the file reaches passes
  same code        the compiler made the same object file of it: no test can tell
  did not compile  and so, like the one above, does not count towards --count

A second run with the same OUT continues where the first one ended. The worktree (--worktree, default build/mutate) holds
the commit that is checked out, and its own build; ccache, where it is installed, makes the way back cheap. Tests are the
ones that ctest lists with --ctest-args; those that fail without any mutation are left out, by name.
"""
import argparse
import hashlib
import json
import os
import pathlib
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Operators as clang-format writes them, with spaces: template brackets, pointers and signs have none.
SWAPS = [(" < ", " <= "), (" <= ", " < "), (" > ", " >= "), (" >= ", " > "), (" == ", " != "), (" != ", " == "),
         (" && ", " || "), (" || ", " && "), (" + ", " - "), (" - ", " + "), (" * ", " / "), (" / ", " * "),
         (" % ", " / "), (" += ", " -= "), (" -= ", " += "), (" | ", " & "), (" & ", " | "), (" << ", " >> "),
         (" >> ", " << "), ("++", "--"), ("std::min", "std::max"), ("std::max", "std::min"), (".front()", ".back()"),
         (".back()", ".front()"), (".begin()", ".end()"), ("true", "false"), ("false", "true"), (".first", ".second"),
         (".second", ".first"), ("nullopt", "{}")]
NOT_STATEMENTS = re.compile(r"(return|using|namespace|template|struct|class|enum|public|private|case|default|else|throw|goto"
                            r"|typedef|friend|static_assert|const |constexpr |static |auto |inline |extern |explicit |virtual )")
MESSAGE = re.compile(r"throw|Error\(|fmt::|\.what|\.hint|\.expected|\.found|log\(|printf|message|description")


def mask(line):
    """The line with the contents of literals and comments blanked, columns kept."""
    out = list(line)
    for match in re.finditer(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|//.*', line):
        for i in range(match.start() + 1, match.end() - (line[match.start()] in "\"'")):
            out[i] = "_"
        if line[match.start()] == "/":
            out[match.start()] = "_"
    return "".join(out)


def matching(text, start):
    """Where the bracket at `start` closes on this line, or -1."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i
    return -1


def split_arguments(text):
    """Spans of the top-level, comma-separated parts of `text`."""
    spans, depth, begin = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{<") - (c in ")]}>")
        if c == "," and depth == 0:
            spans.append((begin, i))
            begin = i + 1
    return spans + [(begin, len(text))]


def mutations_of(line, previous):
    """Every (kind, new line) for one line of code. `previous`: the line above, to see where a statement begins."""
    masked, found = mask(line), []
    code = masked.strip()
    if not code or code.startswith(("#", "//", "_", "*", "}", "static_assert", "MOE4_CHECK", "using ", "namespace", "template")):
        return found

    def put(kind, begin, end, text):
        found.append((kind, line[:begin] + text + line[end:]))

    for old, new in SWAPS:
        for match in re.finditer(re.escape(old) if not old.isalpha() else rf"\b{old}\b", masked):
            put("operator" if " " in old or old == "++" else "name", match.start(), match.end(), new)
    for match in re.finditer(r"(?<![\w.])(\d+)(?=[^\w.]|$)", masked):
        number = int(match[1])
        for other in {number + 1, number - 1 if number > 0 else 1}:
            put("constant", match.start(), match.end(), str(other))
    for match in re.finditer(r"(?<![\w.])(\d+\.\d*(?:e-?\d+)?)(?=f?\b|f?[^\w])", masked):
        put("constant", match.start(), match.end(), "0.0" if float(match[1]) != 0 else "1.0")
    for match in re.finditer(r"\b(if|while) \(", masked):
        end = matching(masked, match.end() - 1)
        if end > 0 and "=" not in masked[match.end():end].replace("==", "").replace("<=", "").replace(">=", "").replace("!=", ""):
            put("condition", match.end(), end, f"!({line[match.end():end]})")
    for match in re.finditer(r"(?<=[(& ])!(?=[\w(])", masked):
        put("condition", match.start(), match.end(), "")
    for match in re.finditer(r" \? ", masked):
        colon = masked.find(" : ", match.end())
        end = min((i for i in (masked.find(c, colon) for c in ";,") if i > 0), default=-1)
        if colon > 0 and end > 0 and matching("(" + masked[match.end():end] + ")", 0) == end - match.end() + 1:
            put("branches", match.end(), end, f"{line[colon + 3:end]} : {line[match.end():colon]}")
    for match in re.finditer(r"\w\(", masked):
        end = matching(masked, match.end() - 1)
        spans = split_arguments(masked[match.end():end]) if end > 0 else []
        for (a, b), (c, d) in zip(spans, spans[1:]):
            first, second = (line[match.end() + x:match.end() + y].strip() for x, y in ((a, b), (c, d)))
            if re.fullmatch(r"[\w.\[\]*->]+", first) and re.fullmatch(r"[\w.\[\]*->]+", second) and first != second:
                space = " " if a else ""
                put("arguments", match.end() + a, match.end() + d, f"{space}{second}, {first}")
    statement = re.fullmatch(r"[\w:.>\[\]*()+-].*;", code) and not NOT_STATEMENTS.match(code)
    begins = previous.rstrip().endswith((";", "{", "}", ":")) or not previous.strip()
    declares = re.match(r"[\w:]+(<.*>)?[&*]* \*?&?\w+(\(| =|;|\{)", code)
    if statement and begins and not declares and code.count("(") == code.count(")"):
        put("statement", len(line) - len(line.lstrip()), len(line), ";")
    if code in ("break;", "continue;") or re.fullmatch(r"if \(.*\) (return|continue|break)\b[^;]*;", code):
        put("statement", len(line) - len(line.lstrip()), len(line), ";")
    if not MESSAGE.search(masked) and not MESSAGE.search(previous):
        for match in re.finditer(r'"([a-z_]{2,}[a-z_.0-9]*)"', line):
            if masked[match.start()] == '"':
                put("key", match.start(1), match.end(1), match[1][:-1])
    return found


def candidates(files):
    """(file, line number, kind, before, after) of every mutation, in the order of the files."""
    for path in files:
        lines = (ROOT / path).read_text().splitlines()
        previous, inside = "", False
        for number, line in enumerate(lines, 1):
            # Raw strings and block comments span lines; a mutation there says nothing.
            if inside or 'R"' in line or "/*" in line:
                inside = (inside or 'R"' in line or "/*" in line) and not re.search(r'\)\w*"|\*/', line)
            else:
                for kind, after in mutations_of(line, previous):
                    yield path, number, kind, line, after
            if not line.strip().startswith("//"):
                previous = line


def source_files(names):
    files = []
    for name in names:
        path = ROOT / name
        if not path.exists():
            sys.exit(f"error: {name}: no such file or folder")
        found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".cc", ".h"))
        files += [str(p.relative_to(ROOT)) for p in found]
    return files


def choose(arguments):
    if arguments.at:
        places = [(file, int(line)) for file, line in (place.rsplit(":", 1) for place in arguments.at)]
        files = list(dict.fromkeys(file for file, _ in places))
        return [m for m in candidates(source_files(files)) if (m[0], m[1]) in places]
    by_line = {}
    for mutation in candidates(source_files(arguments.files.split(","))):
        by_line.setdefault(mutation[:2], []).append(mutation)
    rng = random.Random(arguments.seed)
    lines = sorted(by_line)
    rng.shuffle(lines)
    # One a line, and of its mutations a random kind first: constants would drown the rest. All lines, in random order:
    # main() stops once enough of them were mutations that a test could notice.
    chosen = []
    for place in lines:
        kinds = {}
        for mutation in by_line[place]:
            kinds.setdefault(mutation[2], []).append(mutation)
        chosen.append(rng.choice(kinds[rng.choice(sorted(kinds))]))
    return chosen


class Worktree:
    def __init__(self, arguments):
        self.path = pathlib.Path(arguments.worktree).resolve()
        self.build = self.path / "build" / "release"
        self.jobs = arguments.jobs
        self.ctest_args = shlex.split(arguments.ctest_args)
        self.limit = arguments.limit
        self.wanted = arguments.programs.split(",") if arguments.programs else []
        commit = self.git("rev-parse", "HEAD", where=ROOT)
        if self.path.exists():
            self.git("checkout", "-q", "--force", "--detach", commit)
        else:
            self.git("worktree", "add", "-q", "--force", "--detach", str(self.path), commit, where=ROOT)
        # Paths of this worktree stand for those of any other: what was compiled there need not be compiled again.
        os.environ.setdefault("CCACHE_BASEDIR", str(self.path))
        os.environ.setdefault("CCACHE_NOHASHDIR", "1")
        launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
        self.call(["cmake", "-S", str(self.path), "-B", str(self.build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                   "-DMOE4_BUILD_BENCH=OFF", *launcher, *shlex.split(arguments.cmake_args)])
        targets = ["--target", *self.wanted] if self.wanted else []
        self.call(["cmake", "--build", str(self.build), "-j", str(self.jobs), *targets])
        self.objects = {}
        for entry in json.loads((self.build / "compile_commands.json").read_text()):
            words = shlex.split(entry["command"])
            self.objects.setdefault(entry["file"], self.build / words[words.index("-o") + 1])
        self.programs = self.list_tests()

    def git(self, *args, where=None):
        return subprocess.run(["git", "-C", str(where or self.path), *args], check=True, capture_output=True,
                              text=True).stdout.strip()

    def call(self, command):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"error: {' '.join(command)}:\n{(done.stdout + done.stderr)[-3000:]}")

    def list_tests(self):
        """[{command, target, tests, room, seconds}] of the programs behind ctest's tests, checked without any mutation."""
        listed = json.loads(subprocess.run(["ctest", "--show-only=json-v1", *self.ctest_args], cwd=self.build, check=True,
                                           capture_output=True, text=True).stdout)
        programs, rooms = {}, self.rooms()
        for test in listed["tests"]:
            command = test.get("command")
            # What --programs leaves out is missing, or holds the mutation that an earlier run tried last.
            if not command or not pathlib.Path(command[0]).exists():
                continue
            if self.wanted and pathlib.Path(command[0]).name not in self.wanted:
                continue
            gtest = len(command) > 1 and command[1].startswith("--gtest_filter=")
            key = command[0] if gtest else " ".join(command)
            program = programs.setdefault(key, {"command": command[:1] if gtest else command, "tests": [] if gtest else None,
                                                "target": pathlib.Path(command[0]).name, "name": test["name"]})
            if gtest:
                program["tests"].append(command[1].removeprefix("--gtest_filter="))
        usable = []
        for program in programs.values():
            # A script's program is not a target of the build; what it tests is not what a mutation changes.
            if program["target"] not in rooms:
                continue
            program["room"] = rooms[program["target"]]
            begin = time.time()
            failed = self.run(program, 900)
            program["seconds"] = time.time() - begin
            print(f"  {program['target']}: {program['seconds']:.1f} s" + (f", left out: {failed}" if failed else ""), flush=True)
            if failed is None:
                usable.append(program)
        if not usable:
            sys.exit("error: no test of ctest's list passes without a mutation; see --ctest-args")
        return usable

    def rooms(self):
        """Test target -> folder under tests/."""
        found = {}
        for path in sorted((self.path / "tests").glob("*/CMakeLists.txt")):
            for target in re.findall(r"(?:moe4_test|add_executable)\((\w+)", path.read_text()):
                found[target] = path.parent.name
        return found

    def run(self, program, limit):
        """None when it passes, else what failed."""
        shards = self.jobs if program["tests"] is not None and len(program["tests"]) >= 4 else 1
        command = list(program["command"])
        if program["tests"] is not None:
            command += ["--gtest_brief=1", "--gtest_fail_fast", "--gtest_filter=" + ":".join(program["tests"])]
        running = []
        for shard in range(shards):
            environment = {**os.environ, "GTEST_TOTAL_SHARDS": str(shards), "GTEST_SHARD_INDEX": str(shard)}
            log = open(self.build / f"mutate.{shard}.log", "w+")
            running.append((subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                             cwd=self.build, env=environment, start_new_session=True), log))
        deadline, failed = time.time() + limit, None
        waiting = list(running)
        while waiting and failed is None:
            time.sleep(0.02)
            for process, log in list(waiting):
                code = process.poll()
                if code is None:
                    if time.time() > deadline:
                        failed = f"time limit of {program['target']}"
                    continue
                waiting.remove((process, log))
                if code != 0:
                    log.seek(0)
                    names = re.findall(r"\[  FAILED  \] ([\w/.]+)", log.read())
                    failed = names[0] if names else f"{program['name'] if program['tests'] is None else program['target']}"
                    if code < 0:
                        failed += f" ({signal.Signals(-code).name})"
                    break
        for process, log in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            log.close()
        return failed

    def ninja(self, *args):
        return subprocess.run(["ninja", "-C", str(self.build), f"-j{self.jobs}", *args], capture_output=True, text=True)

    def digest(self, file):
        path = self.objects.get(str(self.path / file))
        if path is None or self.ninja(str(path.relative_to(self.build))).returncode != 0:
            return None
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def affinity(self, program, file):
        """Small numbers first: the room's own tests, then whatever is quick."""
        room = pathlib.Path(file).parts[1] if file.startswith("src/") else ""
        named = pathlib.Path(file).stem.split("_")[0] in program["target"]
        return (program["room"] != room, not named, program["seconds"])

    def try_one(self, file, number, after):
        """(verdict, by)."""
        path = self.path / file
        original = path.read_text()
        before = self.digest(file)
        lines = original.split("\n")
        lines[number - 1] = after
        try:
            path.write_text("\n".join(lines))
            if before is not None:
                changed = self.digest(file)
                if changed is None:
                    return "did not compile", ""
                if changed == before:
                    return "same code", ""
            reached = 0
            for program in sorted(self.programs, key=lambda p: self.affinity(p, file)):
                if "no work to do" in self.ninja("-n", program["target"]).stdout:
                    continue
                built = self.ninja(program["target"])
                # The build lists the tests of a program by running it.
                if "Error running test executable" in built.stdout:
                    return "killed", f"start of {program['target']}"
                if built.returncode != 0:
                    return "did not compile", ""
                reached += 1
                failed = self.run(program, self.limit + 4 * program["seconds"])
                if failed is not None:
                    return "killed", failed
            return "survived", "" if reached else "no test program reaches the file"
        finally:
            path.write_text(original)


def cell(text):
    return "`" + text.strip().replace("|", "\\|").replace("`", "'") + "`"


def write_results(out, rows):
    pathlib.Path(out + ".json").write_text(json.dumps(rows, indent=1) + "\n")
    counts = {}
    for row in rows:
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    summary = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    lines = [f"{len(rows)} mutations: {summary}.", "", "| file:line | before | after | verdict | by |", "|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda r: (r["verdict"] != "survived", r["file"], r["line"])):
        lines.append(f"| {row['file']}:{row['line']} | {cell(row['before'])} | {cell(row['after'])} | {row['verdict']} | {row['by']} |")
    pathlib.Path(out + ".md").write_text("\n".join(lines) + "\n")
    return summary


def noticeable(rows):
    """How many of them a test could have noticed: what --count counts."""
    return sum(row["verdict"] in ("killed", "survived") for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", default="src", help="files and folders, with commas between")
    parser.add_argument("--at", nargs="+", metavar="FILE:LINE", help="these lines instead of random ones")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--out", default="mutations", help="OUT.json and OUT.md")
    parser.add_argument("--ctest-args", default="-L cpu", help="which tests may notice")
    parser.add_argument("--programs", default="", help="only these test programs are built and run, e.g. engine_test,text_test")
    parser.add_argument("--cmake-args", default="", help="for the worktree's build, e.g. -DMOE4_SHARED_MODELS=DIR")
    parser.add_argument("--worktree", default=str(ROOT / "build" / "mutate"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--limit", type=float, default=30, help="seconds a program may take on top of four times its usual ones")
    arguments = parser.parse_args()
    chosen = choose(arguments)
    if not chosen:
        sys.exit("error: nothing to mutate there")
    if arguments.list:
        for file, number, kind, before, after in chosen if arguments.at else chosen[:arguments.count]:
            print(f"{file}:{number}: {kind}\n-{before}\n+{after}")
        return
    done = pathlib.Path(arguments.out + ".json")
    rows = json.loads(done.read_text()) if done.exists() else []
    known = {(row["file"], row["line"], row["before"], row["after"]) for row in rows}
    todo = [m for m in chosen if (m[0], m[1], m[3], m[4]) not in known]
    if not arguments.at and noticeable(rows) >= arguments.count:
        todo = []
    print(f"{len(chosen)} mutations to choose from; building", flush=True)
    if todo:
        tree = Worktree(arguments)
        for file, number, kind, before, after in todo:
            if not arguments.at and noticeable(rows) >= arguments.count:
                break
            if (tree.path / file).read_text().split("\n")[number - 1] != before:
                sys.exit(f"error: {file}:{number} differs from the commit that is checked out: commit first")
            begin = time.time()
            verdict, by = tree.try_one(file, number, after)
            rows.append({"file": file, "line": number, "kind": kind, "before": before, "after": after, "verdict": verdict,
                         "by": by, "seconds": round(time.time() - begin, 1)})
            write_results(arguments.out, rows)
            print(f"[{noticeable(rows)}] {file}:{number} {kind}: {verdict} {by} ({rows[-1]['seconds']} s)", flush=True)
    print(write_results(arguments.out, rows))


if __name__ == "__main__":
    main()
