# The far half of the delivery dialogue. It travels as one line inside single quotes, through login shells of every
# kind, so outside of these comments it holds no single quote, backslash, exclamation mark or tab, and each line may
# be joined to the next with a blank. The near half, with the order of the dialogue, is stage.rs.
#
# sh -c '...' farcall HALF HALF DIGEST OS MACHINE OPTION...
#
# Options: c<directory> n<niceness> m<KiB of memory> e (ask for environment) t (leave nothing behind) a<argument>
# l<seconds that a start may take>.
# Bytes that a login shell might touch are written _ooo, in octal, and so is _ itself.
#
# Names of variables begin with _, so that none is in the worker's environment already or is asked for.

_A=$1$2 _D=$3 _P="$4 $5" _L=gnu _Z=- _K=cached _N= _c= _n= _m= _e= _t= _b= _g= _h= _w= _y= _S= _T=;
shift 5;
say() { echo "$_A $*"; };
die() { say fail "$@"; exit 1; };

# A backslash, though there is none in this text; and what reads _ooo as its own: of the shell, since all can see the arguments
# of a program.
slash() {
  _b=$(awk -v f=%c "BEGIN{printf f,92}" 2>/dev/null);
  [ "$_b" ] || _b=$(echo B | tr A-C "[-]");
  case $(command -v printf)/$(command -v print) in
    printf/*) read_o() { printf %b "$1"; };;
    *f/print|/print) read_o() { print -n -- "$1"; };;
    *) ECHO_STYLE=SYSV; read_o() { echo "$1"; };;
  esac;
  [ "$(read_o "${_b}0101")" = A ] || die env; };
# Decodes $1 into v.
plain() {
  _v=$1 _o=;
  case $_v in *_*)
    [ "$_b" ] || slash;
    while case $_v in *_*) ;; *) false;; esac; do _o=$_o${_v%%_*}${_b}0; _v=${_v#*_}; done;
    _v=$(read_o "$_o${_v}x"); _v=${_v%x};;
  esac; };
for _x in "$@"; do
  shift;
  plain "${_x#?}";
  case $_x in c*) _c=$_v;; n*) _n=$_v;; m*) _m=$_v;; e*) _e=1;; t*) _t=1;; l*) _T=$_v;; a*) set -- "$@" "$_v";; esac;
done;

# What waits for the near side must end where a network is gone and nobody says so: the near side itself waits no longer
# than T. Shells and kinds of timeout have a number each for a wait that was too long; 125 to 127 are not among them.
# Waits for a line of the near side: l. T becomes empty where nothing can limit that; what timeout starts cannot read from a
# terminal.
hear() {
  [ -t 0 ] && _T=;
  if [ "$_T" ]; then
    _l=$(timeout "$_T" head -n 1 2>/dev/null);
    case $? in 0) ;; 124|1[3-9]?|[2-9]??) exit 1;; *) _T=;; esac;
  fi;
  [ "$_T" ] || read -r _l;
  [ "$_l" ] || exit 1; };
# Runs its arguments, within T where hear found that waiting can be limited. If they take too long, this whole shell ends after
# them, by its traps.
soon() {
  [ "$_T" ] || { "$@"; return; };
  timeout "$_T" "$@";
  [ $? -lt 124 ] || kill $$; };

# Who and where we are: read where that costs no process.
_p=;
[ -r /proc/sys/kernel/arch ] && read -r _x </proc/sys/kernel/ostype && read -r _l </proc/sys/kernel/arch && _p="$_x $_l";
[ "$_p" ] || _p=$(uname -sm);
_U=;
[ -r /proc/self/status ] && while read -r _x _l _r _o; do case $_x in Uid:) _U=$_r; break;; esac; done </proc/self/status;
[ "$_U" ] || _U=$(id -u);
for _x in /lib/ld-musl-*; do [ -e "$_x" ] && _L=musl; done;
# This run of the machine, where it has a name.
_B=;
[ -r /proc/sys/kernel/random/boot_id ] && read -r _B </proc/sys/kernel/random/boot_id;

# Whether nobody but us, and whom we let write there, can put another folder in the place of d: what holds it is ours, or lets
# only owners rename. The folders below /var/tmp and the like stand in such places.
held() {
  case $_d in
    */farcall)
      case $_d in "${HOME:-/none}"/.cache/*) [ -O "$HOME" ] || return;; esac;
      _o=${_d%/*};
      if [ -e "$_o" ]; then [ -O "$_o" ] || [ -k "$_o" ]; fi;;
  esac; };
# Calls its arguments for each folder d of the ladder until one serves.
each() {
  _w=;
  for _d in "${XDG_CACHE_HOME:+$XDG_CACHE_HOME/farcall}" "${HOME:+$HOME/.cache/farcall}" "/var/tmp/farcall-$_U" "/tmp/farcall-$_U" "/dev/shm/farcall-$_U" "${XDG_RUNTIME_DIR:+$XDG_RUNTIME_DIR/farcall}"; do
    case $_d in /*) if held; then "$@" && return; else _w="$_w $_d=not-ours"; fi;; esac;
  done;
  return 1; };
# Whether d is a real directory, ours alone: one look that follows no link, so that nothing can change in between.
own() { set -- $(ls -ldn "$_d" 2>/dev/null); case $1/$3 in drwx--[-S]---*/$_U) ;; *) false;; esac; };
# Whether programs in d may run, by running one: mount flags and policies show in no other way.
runs() {
  [ -e "$_d/.x" ] && "$_d/.x" 2>/dev/null && return;
  _x=$_d/.x-$_A;
  { echo : >"$_x" && chmod 700 "$_x" && "$_x" && mv -f "$_x" "$_d/.x"; } 2>/dev/null || { rm -f "$_x"; false; }; };
# The digest of the file $1, with words around it, by whatever can compute it.
digest() { sha256sum <"$1" || shasum -a 256 <"$1" || openssl dgst -sha256 <"$1"; };
# Whether the file $1 has the digest D; h stays empty when nothing here can tell.
sum() { _h=$(digest "$1" 2>/dev/null); case $_h in *$_D*) ;; *) false;; esac; };
# The worker f in d, named by the first quarter of the digest: enough to tell versions apart.
name() { _k=${_D%????????????????????????????????????????????????} _f=$_d/farcall-$_k; };
# Notes that it was used. An empty file of its own takes that note without a process.
used() { { true >"$_d/.u-$_k"; } 2>/dev/null; };
# Whether d is our own and programs may run there, looking at f as well: s is all that shows of it, the moment of its last
# change above all, which nobody can set. Not every ls tells that to the second. Nothing is run before d is known to be ours.
look() {
  _s=$(ls -dilnc --full-time "$_d" "$_f" 2>/dev/null || ls -dilnc "$_d" "$_f" 2>/dev/null);
  set -- $_s;
  case $2/$4 in drwx--[-S]---*/$_U) runs || return 1;; *) return 1;; esac;
  _s=${_s#* "$_d"};
  set -- $_s;
  _s="$_B $*"; };
# Writes down what shows of f, before it is checked; and lets that stand, after it was found good.
note() { { echo "$_s" >"$_d/.n-v$_A"; } 2>/dev/null; };
stand() { mv -f "$_d/.n-v$_A" "$_d/.v-$_k" 2>/dev/null; };
# Whether the worker is in d already. What a check found stands until something shows that f was touched since, or the
# machine was started anew: a file cut short by a crash looks as it did.
hit() {
  name;
  [ -x "$_f" ] && [ -f "$_f" ] && look || return 1;
  _x=;
  { [ "$_B" ] && [ "$_d/.v-$_k" -nt "$_f" ] && read -r _x <"$_d/.v-$_k"; } 2>/dev/null;
  [ "$_x" = "$_s" ] || { note; sum "$_f" || { rm -f "$_d/.n-v$_A"; return 1; }; stand; };
  used;
  return 0; };
# Whether version $1 was used within the last hour, or is running.
busy() {
  [ "$(find "$_d/.u-$1" -mmin +60)" ] || return 0;
  for _x in /proc/[0-9]*/exe; do [ "$_x" -ef "$_d/farcall-$1" ] && return; done;
  return 1; };
# Removes what cut deliveries left, and all versions but the latest used. Mostly there is nothing, which costs no process.
tidy() {
  set -- "$_d"/.u-*;
  _i=$#;
  set -- "$_d"/.[nx]-*;
  [ $_i -gt 4 ] || [ -e "$1" ] || return;
  find "$_d" -type f -name ".[nx]-*" -mmin +60 -exec rm -f {} +;
  _i=0;
  for _o in $(ls -At "$_d"); do
    case $_o in .u-*) _o=${_o#.u-} _i=$((_i+1)); [ $_i -le 4 ] || busy $_o || rm -f "$_d/.u-$_o" "$_d/.v-$_o" "$_d/farcall-$_o";; esac;
  done; };
# Makes d where its parent is there, or may be made.
make() {
  [ -d "$_d" ] && return;
  case $_d in
    "${HOME:-/none}"/.cache/*) [ -d "$HOME/.cache" ] || { [ -d "$HOME" ] && mkdir -p "$HOME/.cache"; };;
    "${XDG_CACHE_HOME:-/none}"/*) [ -d "$XDG_CACHE_HOME" ] || mkdir -p "$XDG_CACHE_HOME";;
  esac;
  mkdir -m 700 "$_d" || [ -d "$_d" ]; };
# Writes what comes to g, and its digest to the output where one tool is there that can do that on the way.
put() { if [ "$_S" ]; then tee "$_g" | sha256sum 2>/dev/null; else cat >"$_g"; fi; };
# Whether g is whole, h being what put said of it. A disk that was full shows in the length.
whole() {
  [ "$_h" ] || { sum "$_g"; return; };
  case $_h in *$_D*) [ $(wc -c <"$_g") -eq "$_r" ];; *) false;; esac; };
# Fetches the worker into d.
take() {
  make 2>/dev/null || { _w="$_w $_d=unwritable"; return 1; };
  own || { _w="$_w $_d=not-ours"; return 1; };
  runs || { _w="$_w $_d=no-execution"; return 1; };
  name;
  for _i in 1 2; do
    _g=$_d/.n-$_A;
    say need $_Z $_L $_p;
    hear;
    set -- $_l;
    _x=$1 _l=$2 _r=$3;
    say go;
    _h=$(case $_Z in *c*) soon head -c "$_l";; *) soon dd bs=1 count="$_l" 2>/dev/null;; esac | {
      case $_x in gz) gzip -dc | put;; *) put;; esac;
      cat >/dev/null; });
    if whole; then
      chmod 700 "$_g" && _K=kept && if [ "$_t" ]; then _f=$_g; return; fi;
      [ -d "$_f" ] && break;
      mv -f "$_g" "$_f" && { _g=; used; look && note && stand; tidy >/dev/null 2>&1; return 0; };
    else
      [ "$_h" ] || [ $(wc -c <"$_g") -ne "$_r" ] || { chmod 700 "$_g"; _f=$_g _t=1 _K=kept; return; };
    fi;
    [ $_x = gz ] || break;
  done;
  rm -f "$_g";
  _w="$_w $_d=damaged";
  return 1; };
# Takes back what was made.
undo() { [ -z "$_g" ] || { rm -f "$_g"; [ -z "$_t" ] || { rm -f "${_g%/*}/.x"; rmdir "${_g%/*}"; } 2>/dev/null; }; };

[ "$_p" = "$_P" ] || { say ask $_L $_p; hear; _D=$_l; };
each hit || {
  [ "$(echo xy | head -c 1 2>/dev/null)" = x ] && _Z=c;
  command -v gzip >/dev/null 2>&1 && _Z=g$_Z;
  command -v sha256sum >/dev/null 2>&1 && command -v tee >/dev/null 2>&1 && _S=1;
  _M=$(umask);
  umask 077;
  trap undo 0;
  trap "exit 1" 1 2 13 15;
  each take || die folders$_w;
  umask "$_M";
};

# From here on the place is made as asked for, and the worker takes over.
[ -z "$_c" ] || { mkdir -p -- "$_c" && CDPATH= cd -- "$_c" >/dev/null; } || die chdir;
[ -z "$_m" ] || case $_p in Linux*) ulimit -d "$_m";; *) ulimit -v "$_m";; esac || die memory;
if [ "$_n" ]; then
  _N=$(command -v nice) || die nice;
  case $_n in -*) [ "$(nice -n "$_n" nice 2>/dev/null)" -lt "$(nice)" ] || die nice;; esac;
fi;
_q=$_f;
if [ "$_K$_t" = kept1 ]; then
  exec 9<"$_f";
  [ -e /proc/self/fd/9 ] && { rm -f "$_f" "$_d/.x"; rmdir "$_d" 2>/dev/null; _q=; _f=/proc/self/fd/9; };
  _K=gone;
fi;
set -- "$_f" "$@";
[ -z "$_n" ] || set -- "$_N" -n "$_n" "$@";
# Last, since it may change anything that a shell goes by.
_r="$_A run $_K $_L $_p";
if [ "$_e" ]; then
  say env;
  hear;
  slash;
  for _x in $_l; do plain "${_x#*=}"; case $_x in PATH=*) _y=1 _s=$_v;; *) (export "${_x%%=*}=$_v") 2>/dev/null || die env "${_x%%=*}"; export "${_x%%=*}=$_v";; esac; done;
fi;
trap - 0 1 2 13 15;
echo "$_r";
# PATH last: it may lead to nothing that is still needed, and some shells then do without their own echo.
go() {
  case $_y in 1) export "PATH=$_s";; esac;
  case $_K$_q in gone) exec "$@" 9<&9;; *) exec "$@";; esac; };
case $_K$_q in gone/*) ;; *) go "$@";; esac;
(go "$@");
_x=$?;
rm -f "$_q" "$_d/.x";
rmdir "$_d" 2>/dev/null;
exit $_x;
