# The far half of the delivery dialogue. It travels as one line inside single quotes, through login shells of every
# kind, so outside of these comments it holds no single quote, backslash, exclamation mark or tab, and each line may
# be joined to the next with a blank. The near half, with the order of the dialogue, is stage.rs.
#
# sh -c '...' farcall HALF HALF DIGEST OS MACHINE OPTION...
#
# Options: c<directory> n<niceness> m<KiB of memory> e (ask for environment) t (leave nothing behind) a<argument>.
# Bytes that a login shell might touch are written _ooo, in octal, and so is _ itself.

A=$1$2 D=$3 P="$4 $5" L=gnu Z=- K=cached N= c= n= m= e= t= b= g= h= w=;
shift 5;
say() { echo "$A $*"; };
die() { say fail "$@"; exit 1; };

# A backslash, though there is none in this text.
slash() { b=$(awk -v f=%c "BEGIN{printf f,92}" 2>/dev/null); [ "$b" ] || b=$(echo B | tr A-C "[-]"); };
# Decodes $1 into v.
plain() {
  v=$1 o=;
  case $v in *_*)
    [ "$b" ] || slash;
    while case $v in *_*) ;; *) false;; esac; do o=$o${v%%_*}${b}0; v=${v#*_}; done;
    v=$(printf %bx "$o$v"); v=${v%x};;
  esac; };
for x in "$@"; do
  shift;
  plain "${x#?}";
  case $x in c*) c=$v;; n*) n=$v;; m*) m=$v;; e*) e=1;; t*) t=1;; a*) set -- "$@" "$v";; esac;
done;

# Who and where we are: read where that costs no process.
p=;
[ -r /proc/sys/kernel/arch ] && read -r x </proc/sys/kernel/ostype && read -r l </proc/sys/kernel/arch && p="$x $l";
[ "$p" ] || p=$(uname -sm);
U=;
[ -r /proc/self/status ] && while read -r x l r o; do case $x in Uid:) U=$r; break;; esac; done </proc/self/status;
[ "$U" ] || U=$(id -u);
for x in /lib/ld-musl-*; do [ -e "$x" ] && L=musl; done;

# Calls its arguments for each folder d of the ladder until one serves.
each() {
  for d in "${XDG_CACHE_HOME:+$XDG_CACHE_HOME/farcall}" "${HOME:+$HOME/.cache/farcall}" "/var/tmp/farcall-$U" "/tmp/farcall-$U" "/dev/shm/farcall-$U" "${XDG_RUNTIME_DIR:+$XDG_RUNTIME_DIR/farcall}"; do
    case $d in /*) "$@" && return;; esac;
  done;
  return 1; };
# Whether d is a real directory, ours alone: one look that follows no link, so that nothing can change in between.
own() { set -- $(ls -ldn "$d" 2>/dev/null); case $1/$3 in drwx--[-S]---*/$U) ;; *) false;; esac; };
# Whether programs in d may run, by running one: mount flags and policies show in no other way.
runs() {
  "$d/.x" 2>/dev/null && return;
  x=$d/.x-$A;
  { echo : >"$x" && chmod 700 "$x" && "$x" && mv -f "$x" "$d/.x"; } 2>/dev/null || { rm -f "$x"; false; }; };
# The digest of the file $1, with words around it, by whatever can compute it.
digest() { sha256sum <"$1" || shasum -a 256 <"$1" || openssl dgst -sha256 <"$1"; };
# Whether the file $1 has the digest D; h stays empty when nothing here can tell.
sum() { h=$(digest "$1" 2>/dev/null); case $h in *$D*) ;; *) false;; esac; };
# The worker f in d, named by the first quarter of the digest: enough to tell versions apart.
name() { k=${D%????????????????????????????????????????????????} f=$d/farcall-$k; };
# Notes that it was used. An empty file of its own takes that note without a process.
used() { { true >"$d/.u-$k"; } 2>/dev/null; };
# Whether the worker is in d already. Its digest and whether programs may run there are found out at the same time.
hit() {
  name;
  [ -x "$f" ] && [ -f "$f" ] && own || return 1;
  h=$({ "$d/.x" && echo runs; } 2>/dev/null & digest "$f" 2>/dev/null; wait);
  case $h in *$D*) ;; *) return 1;; esac;
  case $h in *runs*) ;; *) runs || return;; esac;
  used;
  return 0; };
# Whether version $1 was used within the last hour, or is running.
busy() {
  [ "$(find "$d/.u-$1" -mmin +60)" ] || return 0;
  for x in /proc/[0-9]*/exe; do [ "$x" -ef "$d/farcall-$1" ] && return; done;
  return 1; };
# Removes what cut deliveries left, and all versions but the latest used.
tidy() {
  find "$d" -type f -name ".[nx]-*" -mmin +60 -exec rm -f {} +;
  i=0;
  for o in $(ls -At "$d"); do
    case $o in .u-*) o=${o#.u-} i=$((i+1)); [ $i -le 4 ] || busy $o || rm -f "$d/.u-$o" "$d/farcall-$o";; esac;
  done; };
# Makes d where its parent is there, or may be made.
make() {
  [ -d "$d" ] && return;
  case $d in
    "${HOME:-/none}"/.cache/*) [ -d "$HOME" ] && mkdir -p "$HOME/.cache";;
    "${XDG_CACHE_HOME:-/none}"/*) mkdir -p "$XDG_CACHE_HOME";;
  esac;
  mkdir -m 700 "$d" || [ -d "$d" ]; };
# Fetches the worker into d.
take() {
  make 2>/dev/null || { w="$w $d=unwritable"; return 1; };
  own || { w="$w $d=not-ours"; return 1; };
  runs || { w="$w $d=no-execution"; return 1; };
  name;
  for i in 1 2; do
    g=$d/.n-$A;
    say need $Z $L $p;
    read -r x l r || exit 1;
    say go;
    case $Z in *c*) head -c "$l";; *) dd bs=1 count="$l" 2>/dev/null;; esac | {
      case $x in gz) gzip -dc >"$g";; *) cat >"$g";; esac;
      cat >/dev/null; };
    if sum "$g"; then
      chmod 700 "$g" && K=kept && if [ "$t" ]; then f=$g; return; fi;
      [ -d "$f" ] && break;
      mv -f "$g" "$f" && { g=; used; tidy >/dev/null 2>&1; return 0; };
    else
      [ "$h" ] || [ $(wc -c <"$g") -ne "$r" ] || { chmod 700 "$g"; f=$g t=1 K=kept; return; };
    fi;
    [ $x = gz ] || break;
  done;
  rm -f "$g";
  w="$w $d=damaged";
  return 1; };
# Takes back what was made.
undo() { [ -z "$g" ] || rm -f "$g"; };

[ "$p" = "$P" ] || { say ask $L $p; read -r D || exit 1; };
each hit || {
  [ "$(echo xy | head -c 1 2>/dev/null)" = x ] && Z=c;
  command -v gzip >/dev/null 2>&1 && Z=g$Z;
  M=$(umask);
  umask 077;
  trap undo 0;
  trap "exit 1" 1 2 13 15;
  each take || die folders$w;
  trap - 0 1 2 13 15;
  umask "$M";
};

# From here on the place is made as asked for, and the worker takes over.
[ -z "$c" ] || { mkdir -p -- "$c" && CDPATH= cd -- "$c" >/dev/null; } || die chdir;
[ -z "$m" ] || case $p in Linux*) ulimit -d "$m";; *) ulimit -v "$m";; esac || die memory;
if [ "$n" ]; then
  N=$(command -v nice) || die nice;
  case $n in -*) [ "$(nice -n "$n" nice 2>/dev/null)" -lt "$(nice)" ] || die nice;; esac;
fi;
q=$f;
if [ "$K$t" = kept1 ]; then
  exec 9<"$f";
  [ -e /proc/self/fd/9 ] && { rm -f "$f" "$d/.x"; rmdir "$d" 2>/dev/null; q=; f=/proc/self/fd/9; };
  K=gone;
fi;
if [ "$e" ]; then
  say env;
  read -r l || exit 1;
  slash;
  for x in $l; do plain "${x#*=}"; export "${x%%=*}=$v"; done;
fi;
set -- "$f" "$@";
[ -z "$n" ] || set -- "$N" -n "$n" "$@";
say run $K $L $p;
case $K$q in
  cached*|kept*) exec "$@";;
  gone) exec "$@" 9<&9;;
esac;
"$@";
x=$?;
rm -f "$q" "$d/.x";
rmdir "$d" 2>/dev/null;
exit $x;
