// TOGETHER blocks at a time (one, unless they exchange), lanes as fibres
#ifndef TOGETHER
#define TOGETHER 1
#endif
#include <ucontext.h>
#include <cmath>
#include <cstring>
#include <cstdio>
#include <cstdlib>
#include <vector>
#define EMULATED
#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(x) alignas(x)
struct uint4{unsigned x,y,z,w;}; struct uint2{unsigned x,y;}; struct alignas(16) float4{float x,y,z,w;}; struct alignas(8) float2{float x,y;};
static inline uint4 make_uint4(unsigned a,unsigned b,unsigned c,unsigned d){return {a,b,c,d};}
static inline uint2 make_uint2(unsigned a,unsigned b){return {a,b};}
static inline float2 make_float2(float a,float b){return {a,b};}
static inline float4 make_float4(float a,float b,float c,float d){return {a,b,c,d};}
static inline float __uint_as_float(unsigned u){float f;memcpy(&f,&u,4);return f;}
static inline unsigned __float_as_uint(float f){unsigned u;memcpy(&u,&f,4);return u;}
struct D3{unsigned x,y,z;}; static D3 threadIdx,blockIdx;
static const int MAXT=1024*TOGETHER; static ucontext_t ctx[MAXT],mainctx; static int cur,nthreads; static bool done_[MAXT];
static std::vector<char> stacks; static float slot_[MAXT];
static void (*body)();
static void yield_(){ swapcontext(&ctx[cur],&mainctx);} 
// every sync point is a full-block rendezvous of the round robin within the warp: counts per warp
static long wcount[MAXT/32],wgen[MAXT/32],bcount[TOGETHER],bgen[TOGETHER]; static int walive[MAXT/32],balive[TOGETHER];
static void wbar(){int w=cur/32; long g=wgen[w]; if(++wcount[w]>=walive[w]){wcount[w]=0;wgen[w]++;} else while(wgen[w]==g) yield_();}
static void bbar(){int b=cur/nthreads; long g=bgen[b]; if(++bcount[b]>=balive[b]){bcount[b]=0;bgen[b]++;} else while(bgen[b]==g) yield_();}
#define __syncwarp() wbar()
#define __syncthreads() bbar()
template<int> static inline void meet(){bbar();}
static inline float exchange(float x,int m){slot_[cur]=x; wbar(); float r=slot_[cur^m]; wbar(); return r;}
template<int W> static inline float from_before(float x,int k){slot_[cur]=x; wbar(); float r=slot_[cur%W>=k?cur-k:cur]; wbar(); return r;}
template<int W> static inline float from_after(float x,int k){slot_[cur]=x; wbar(); float r=slot_[cur%W+k<W?cur+k:cur]; wbar(); return r;}
template<int W,int K> static inline void append_before(float& d,float& x){float a=from_before<W>(d,K),h=from_before<W>(x,K); if(cur%W>=K) x=fmaf(d,h,x),d*=a;}
template<int W,int K> static inline void append_after(float& d,float& x){float a=from_after<W>(d,K),h=from_after<W>(x,K); if(cur%W+K<W) x=fmaf(d,h,x),d*=a;}
static inline void hold(float&){}
static inline void fetch_16_bytes(void* to,const void* from){memcpy(to,from,16);}
static inline void end_fetches(){}
template<int> static inline void await_fetches(){}
#ifndef UNIT_ERROR
#define UNIT_ERROR 0.0f
#endif
static inline float exp2_fast(float x){return exp2f(x)*(1.0f+UNIT_ERROR);}
static inline float at_least(float x,float low){return x<low?low:x;} static inline float at_most(float x,float high){return x>high?high:x;}
static inline float reciprocal(float x){return 1.0f/x;}
static inline unsigned short bf(float f){unsigned u=__float_as_uint(f); if(f!=f) return 0x7fc0; return (u+0x7fff+((u>>16)&1))>>16;}
static inline unsigned two_bf16(float a,float b){return bf(a)|(unsigned(bf(b))<<16);} 
static inline float from_half(unsigned b){_Float16 h;unsigned short s=b;memcpy(&h,&s,2);return (float)h;}
static inline unsigned two_half(float a,float b){_Float16 x=a,y=b;unsigned short s,t;memcpy(&s,&x,2);memcpy(&t,&y,2);return s|(unsigned(t)<<16);} 
alignas(16) static float shared_of[TOGETHER][65536];
#define shared (shared_of[cur/nthreads])
static void tramp(){ body(); done_[cur]=true; int w=cur/32,b=cur/nthreads; walive[w]--; balive[b]--;
  if(walive[w]&&wcount[w]>=walive[w]){wcount[w]=0;wgen[w]++;} if(balive[b]&&bcount[b]>=balive[b]){bcount[b]=0;bgen[b]++;} while(1) yield_(); }
static void run_grid(long grid,int threads,void(*f)()){ body=f; nthreads=threads; int fibres=threads*TOGETHER; stacks.resize((size_t)fibres*131072);
 for(long b=0;b<grid;b+=TOGETHER){ for(int t=0;t<TOGETHER;t++){ for(int i=0;i<65536;i++) shared_of[t][i]=NAN; bcount[t]=0; balive[t]=threads; }
  memset(wcount,0,sizeof wcount); for(int i=0;i<fibres/32;i++) walive[i]=0; for(int i=0;i<fibres;i++) walive[i/32]++;
  for(int i=0;i<fibres;i++){done_[i]=false; getcontext(&ctx[i]); ctx[i].uc_stack.ss_sp=&stacks[(size_t)i*131072]; ctx[i].uc_stack.ss_size=131072; ctx[i].uc_link=&mainctx; makecontext(&ctx[i],tramp,0);}
  bool any=true; while(any){any=false; for(int i=0;i<fibres;i++) if(!done_[i]){any=true; cur=i; threadIdx={(unsigned)(i%threads),0,0}; blockIdx={(unsigned)(b+i/threads),0,0}; swapcontext(&mainctx,&ctx[i]);} }
 }}
