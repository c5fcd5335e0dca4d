#!/usr/bin/env python3
"""Breaks one line at a time and says which test notices: mutations of source files, tried beside the build tree.

usage: mutate.py --files src/engine,src/cli --count 60 --seed 1 [--ctest-args '-L cpu -E RealModels'] [--out OUT]
       mutate.py --at src/engine/sampler.cc:41 ...      every mutation of these lines
       mutate.py --these FILE                           those of a file as --list prints them, or written by hand
       mutate.py --list ...                             shows what would be tried

Each mutation is one changed line: an operator, a constant, a condition, a dropped statement, exchanged arguments, a
misspelt key. What the line's file is compiled into is compiled once more and linked with the rest of the build tree as
it is; the programs so changed run their tests, those of the file's own folder first, until one fails. OUT.json and
OUT.md get a row each: file, line, before, after, verdict:

  killed           by the test (or the time limit of the program) that is named
  survived         every test that the file reaches passes
  same code        the compiler made the same object files of it: no test can tell
  did not compile  and so, like the one above and "not compiled" (CUDA's files), does not count towards --count

--jobs mutations are tried at a time. A second run with the same OUT continues where the first one ended. Neither the
sources nor the build tree (--build, default build/mutate, made when it is missing) are changed. Tests are those that
ctest lists with --ctest-args; a test that fails without any mutation is left out, by name, and the end says so again.
"""
import argparse
import concurrent.futures
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
import tempfile
import threading
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
    for match in re.finditer(r"(?<!std::min)(?<!std::max)(?<=\w)\(", masked):
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


def read_mutations(path):
    """Blocks of three lines: `FILE:LINE: KIND`, `-BEFORE`, `+AFTER`; lines with # and empty ones stand for themselves.
    LINE is where BEFORE stood: the nearest line that reads so is taken."""
    lines = [line for line in pathlib.Path(path).read_text().splitlines() if line.strip() and not line.startswith("#")]
    for place, before, after in zip(lines[::3], lines[1::3], lines[2::3]):
        match = re.fullmatch(r"(\S+):(\d+): (.*)", place)
        if not match or before[:1] != "-" or after[:1] != "+":
            sys.exit(f"error: {path}: expected FILE:LINE: KIND, -BEFORE, +AFTER; found: {place}")
        found = [i for i, line in enumerate((ROOT / match[1]).read_text().split("\n"), 1) if line.strip() == before[1:].strip()]
        if not found:
            sys.exit(f"error: {path}: {match[1]} has no line {before[1:].strip()}")
        yield match[1], min(found, key=lambda i: abs(i - int(match[2]))), match[3], before[1:], after[1:]


def choose(arguments):
    if arguments.these:
        return list(read_mutations(arguments.these))
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


class Build:
    """The build tree: what is made of what, by which command, and the tests with the programs behind them."""

    def __init__(self, arguments):
        self.path = pathlib.Path(arguments.build).resolve()
        self.jobs = arguments.jobs
        if not (self.path / "build.ninja").exists():
            launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
            call(["cmake", "-S", str(ROOT), "-B", str(self.path), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                  "-DMOE4_BUILD_BENCH=OFF", *launcher, *shlex.split(arguments.cmake_args)])
        call(["ninja", "-C", str(self.path), f"-j{self.jobs}"])
        self.compile = {}
        for entry in json.loads((self.path / "compile_commands.json").read_text()):
            words = shlex.split(entry["command"])
            self.compile[words[words.index("-o") + 1]] = (entry["file"], words)
        self.read_dependencies()
        self.read_links()
        self.tests = self.list_tests(shlex.split(arguments.ctest_args))

    def ninja(self, *arguments):
        return call(["ninja", "-C", str(self.path), *arguments]).splitlines()

    def read_dependencies(self):
        """self.dependents: source or header of this repository -> objects compiled from it."""
        self.dependents, target = {}, ""
        for line in self.ninja("-t", "deps"):
            if line.startswith(" "):
                path = pathlib.Path(self.path, line.strip()).resolve()
                if target in self.compile and path.is_relative_to(ROOT):
                    self.dependents.setdefault(str(path.relative_to(ROOT)), []).append(target)
            else:
                target = line.split(":")[0]

    def read_links(self):
        """self.inputs: archive, library or program -> what it is made of; self.runs: program -> programs it needs beside it."""
        linked = [line.split(": ")[0] for line in self.ninja("-t", "targets", "all")
                  if ".cmake: " not in line and re.search(r": C(XX)?_(STATIC_LIBRARY|SHARED_LIBRARY|EXECUTABLE)_LINKER", line)]
        self.inputs, self.runs, self.commands = {}, {}, {}
        target = ""
        for line in self.ninja("-t", "query", *linked):
            name = re.sub(r"^\|* *", "", line.strip())
            if not line.startswith(" "):
                target = line.rstrip(":")
                self.inputs[target], self.runs[target], reading = [], [], False
            elif line.startswith("  input"):
                reading = True
            elif line.startswith("  outputs"):
                reading = False
            elif reading and "||" not in line:
                self.inputs[target].append(name)
            elif reading and name.startswith("bin/"):
                self.runs[target].append(name)
        for target in linked:
            # What follows the link lists the tests of a program by running it.
            command = self.ninja("-t", "commands", "-s", target)[-1].removeprefix(": && ")
            self.commands[target] = re.split(r" && (?:cd |:)", command)[0]

    def list_tests(self, ctest_args):
        """The tests that ctest lists, one entry a program."""
        listed = json.loads(call(["ctest", "--test-dir", str(self.path), "--show-only=json-v1", *ctest_args]))
        tests, rooms = {}, rooms_of_tests()
        for entry in listed["tests"]:
            command = entry.get("command", [])
            names = [name for name in self.inputs if str(self.path / name) in command]
            if not names:
                continue
            gtest = len(command) > 1 and command[1].startswith("--gtest_filter=")
            key = command[0] if gtest else entry["name"]
            target = names[0]
            test = tests.setdefault(key, {
                "name": pathlib.Path(target).name if gtest else entry["name"], "command": command[:1] if gtest else command,
                "needs": [target, *self.runs[target]], "cases": [] if gtest else None, "left_out": [], "usable": True,
                "seconds": 0.0, "room": rooms.get(pathlib.Path(target).name, "")})
            if gtest:
                test["cases"].append(command[1].removeprefix("--gtest_filter="))
        return list(tests.values())

    def reaches(self, files):
        """Archives, libraries and programs that hold something compiled from one of the files."""
        found = {name for file in files for name in self.dependents.get(file, [])}
        grown = True
        while grown:
            more = {target for target, inputs in self.inputs.items() if target not in found and found.intersection(inputs)}
            found, grown = found | more, bool(more)
        return found

    def check_tests(self, files):
        """Keeps the tests that the files reach; measures them, and leaves out by name what fails without any mutation."""
        reached = self.reaches(files)
        self.tests = [test for test in self.tests if reached.intersection(test["needs"])]
        with concurrent.futures.ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(self.check_test, self.tests))
        if not any(test["usable"] for test in self.tests):
            sys.exit("error: no test of ctest's list reaches these files; see --ctest-args")

    def check_test(self, test):
        # What fails may differ from run to run: three times, then the whole program cannot be used.
        for _ in range(3):
            begin = time.time()
            failed, log = run_test(test, self.path, self.path / "bin", 900, fail_fast=False)
            test["seconds"] = time.time() - begin
            names = set(re.findall(r"\[  FAILED  \] ([\w/.]+)", log)) if test["cases"] is not None else set()
            if failed is None or not names - set(test["left_out"]):
                break
            test["left_out"] = sorted(names.union(test["left_out"]))
        if failed is not None:
            test["left_out"] = [f"all of it, {failed}"]
            test["usable"] = False
            print(log[-2000:], file=sys.stderr)
        print(f"  {test['name']}: {test['seconds']:.1f} s", *left_out([test]), flush=True)


def left_out(tests):
    return [f"WARNING: {test['name']}: {', '.join(test['left_out'])} fails without any mutation and is left out"
            for test in tests if test["left_out"]]


def call(command, where=None):
    done = subprocess.run(command, capture_output=True, text=True, cwd=where)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command)}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def rooms_of_tests():
    """Test target -> folder under tests/."""
    return {target: path.relative_to(ROOT / "tests").parts[0]
            for path in sorted((ROOT / "tests").glob("*/**/CMakeLists.txt"))
            for target in re.findall(r"(?:moe4_test|add_executable)\((\w+)", path.read_text())}


def run_test(test, build, programs, limit, fail_fast=True):
    """Runs one test with the programs of a folder: (None when it passes, else what failed; what it printed)."""
    moved = {str(build / name): str(programs / pathlib.Path(name).name) for name in test["needs"]}
    command = [moved.get(word, word) for word in test["command"]]
    where = programs.parent / "run"
    where.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="moe4-mutate-") as folder:
        if test["cases"] is not None:
            flags = pathlib.Path(folder, "flags")
            flags.write_text("--gtest_filter=" + ":".join(c for c in test["cases"] if c not in test["left_out"]) + "\n")
            command += ["--gtest_brief=1", f"--gtest_flagfile={flags}"] + (["--gtest_fail_fast"] if fail_fast else [])
        with open(pathlib.Path(folder, "log"), "w+", errors="replace") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=where,
                                       env={**os.environ, "TMPDIR": folder}, start_new_session=True)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                try:
                    os.killpg(process.pid, signal.SIGKILL)  # what it started, too
                except ProcessLookupError:
                    pass
                process.wait()
            log.seek(0)
            text = log.read()
    if code is None:
        return f"time limit of {test['name']}", text
    if code == 0:
        return None, text
    names = re.findall(r"\[  FAILED  \] ([\w/.]+)", text) if test["cases"] is not None else []
    return (names[0] if names else test["name"]) + (f" ({signal.Signals(-code).name})" if code < 0 else ""), text


class Worker:
    """Compiles and links mutants in a folder of its own; neither the sources nor the build tree change."""

    def __init__(self, build, number, limit):
        self.build, self.limit = build, limit
        self.folder = build.path / "mutants" / str(number)

    def try_one(self, file, number, after):
        """(verdict, by)."""
        shutil.rmtree(self.folder, ignore_errors=True)
        overlay = self.folder / "overlay" / file
        overlay.parent.mkdir(parents=True)
        lines = (ROOT / file).read_text().split("\n")
        lines[number - 1] = after
        overlay.write_text("\n".join(lines))
        self.made, self.seen = {}, set()  # of the build tree -> of this folder; what link() has looked at
        for target in self.build.dependents.get(file, []):
            made = self.compile(target, file)
            if made is None:
                return "did not compile", ""
            if made.read_bytes() != (self.build.path / target).read_bytes():
                self.made[target] = made
        if not self.made:
            return ("same code" if file in self.build.dependents else "not compiled"), ""
        reached = False
        for test in sorted(self.build.tests, key=lambda test: affinity(test, file)):
            if not test["usable"]:
                continue
            try:
                changed = [self.link(name) for name in test["needs"]]
            except subprocess.CalledProcessError:
                return "did not compile", ""
            if not any(changed):
                continue
            reached = True
            failed, _ = run_test(test, self.build.path, self.folder / "bin", self.limit + 4 * test["seconds"])
            if failed is not None:
                return "killed", failed
        return "survived", "" if reached else "no test program reaches the file"

    def compile(self, target, file):
        source, words = self.build.compile[target]
        made = self.folder / target
        made.parent.mkdir(parents=True, exist_ok=True)
        overlay = self.folder / "overlay"
        words = [str(made) if word == target else word for word in words]
        if source == str(ROOT / file):
            words = [str(overlay / file) if word == source else word for word in words]
            words += [f"-iquote{pathlib.Path(source).parent}"]
        # Headers of the overlay come first; __FILE__ stays what it is in the build.
        compiler = next(i for i, word in enumerate(words) if word.startswith("-"))
        words[compiler:compiler] = [f"-I{overlay / part}" for part in ("src", "include", "tests")]
        words += [f"-fmacro-prefix-map={overlay}={ROOT}", "-w"]
        done = subprocess.run(words, cwd=self.build.path, capture_output=True)
        return made if done.returncode == 0 else None

    def link(self, target):
        """Whether the mutation changes the target, which is then made in this folder. Programs are put there in any case."""
        if target in self.seen:
            return target in self.made
        self.seen.add(target)
        made = self.folder / target
        changed = [name for name in self.build.inputs.get(target, []) if name in self.made or
                   (name in self.build.inputs and self.link(name))]
        made.parent.mkdir(parents=True, exist_ok=True)
        if changed:
            words = [str(made) if word == target else str(self.made.get(word, word))
                     for word in self.build.commands[target].split(" ")]
            for name in changed:  # shared libraries
                words = [word.replace(str((self.build.path / name).parent), str(self.made[name].parent))
                         if word.startswith("-Wl,-rpath") else word for word in words]
            subprocess.run(" ".join(words), shell=True, cwd=self.build.path, check=True, capture_output=True)
            if made.read_bytes() != (self.build.path / target).read_bytes():
                self.made[target] = made
                for alias in (self.build.path / target).parent.glob("*.so*"):
                    if alias.is_symlink():
                        (made.parent / alias.name).unlink(missing_ok=True)
                        (made.parent / alias.name).symlink_to(os.readlink(alias))
                return True
        elif target.startswith("bin/"):
            os.link(self.build.path / target, made)
        return False


def affinity(test, file):
    """Small numbers first: the room's own tests, then whatever is quick."""
    room = pathlib.Path(file).parts[1] if file.startswith("src/") else ""
    named = pathlib.Path(file).stem.split("_")[0] in test["name"]
    return (test["room"] != room, not named, test["seconds"])


def cell(text):
    return "`" + text.strip().replace("|", "\\|").replace("`", "'") + "`"


def write_results(out, rows, notes):
    pathlib.Path(out + ".json").write_text(json.dumps(rows, indent=1) + "\n")
    counts = {}
    for row in rows:
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    summary = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    lines = [f"{len(rows)} mutations: {summary}.", *notes, "", "| file:line | before | after | verdict | by |", "|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda r: (r["verdict"] != "survived", r["file"], r["line"])):
        lines.append(f"| {row['file']}:{row['line']} | {cell(row['before'])} | {cell(row['after'])} | {row['verdict']} | {row['by']} |")
    pathlib.Path(out + ".md").write_text("\n".join(lines) + "\n")
    return "\n".join([summary, *notes])


def noticeable(rows):
    """How many of them a test could have noticed: what --count counts."""
    return sum(row["verdict"] in ("killed", "survived") for row in rows)


def try_all(build, todo, rows, arguments):
    """Takes from `todo` until it is empty or enough are noticeable; rows are written as they come."""
    lock, notes = threading.Lock(), left_out(build.tests)

    def work(number):
        worker = Worker(build, number, arguments.limit)
        while True:
            with lock:
                if not todo or (arguments.random and noticeable(rows) >= arguments.count):
                    return
                file, line, kind, before, after = todo.pop(0)
            begin = time.time()
            verdict, by = worker.try_one(file, line, after)
            with lock:
                rows.append({"file": file, "line": line, "kind": kind, "before": before, "after": after, "verdict": verdict,
                             "by": by, "seconds": round(time.time() - begin, 1)})
                write_results(arguments.out, rows, notes)
                print(f"[{noticeable(rows)}] {file}:{line} {kind}: {verdict} {by} ({rows[-1]['seconds']} s)", flush=True)

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for done in [pool.submit(work, number) for number in range(arguments.jobs)]:
            done.result()
    return notes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", default="src", help="files and folders, with commas between")
    parser.add_argument("--at", nargs="+", metavar="FILE:LINE", help="these lines instead of random ones")
    parser.add_argument("--these", metavar="FILE", help="the mutations that a file lists")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--out", default="mutations", help="OUT.json and OUT.md")
    parser.add_argument("--ctest-args", default="-L cpu", help="which tests may notice")
    parser.add_argument("--cmake-args", default="", help="for a new build tree, e.g. -DMOE4_SHARED_MODELS=DIR")
    parser.add_argument("--build", default=str(ROOT / "build" / "mutate"), help="an existing build tree of Ninja's, or a new one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutations that are tried at a time")
    parser.add_argument("--limit", type=float, default=30, help="seconds a program may take on top of four times its usual ones")
    arguments = parser.parse_args()
    arguments.random = not arguments.at and not arguments.these
    chosen = choose(arguments)
    if not chosen:
        sys.exit("error: nothing to mutate there")
    if arguments.list:
        for file, number, kind, before, after in chosen[:arguments.count] if arguments.random else chosen:
            print(f"{file}:{number}: {kind}\n-{before}\n+{after}")
        return
    done = pathlib.Path(arguments.out + ".json")
    rows = json.loads(done.read_text()) if done.exists() else []
    known = {(row["file"], row["line"], row["before"], row["after"]) for row in rows}
    todo = [m for m in chosen if (m[0], m[1], m[3], m[4]) not in known]
    notes = []
    print(f"{len(todo)} mutations to choose from; building", flush=True)
    if todo and not (arguments.random and noticeable(rows) >= arguments.count):
        build = Build(arguments)
        build.check_tests({m[0] for m in todo})
        notes = try_all(build, todo, rows, arguments)
    print(write_results(arguments.out, rows, notes))


if __name__ == "__main__":
    main()
