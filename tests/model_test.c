/* Configuration of the model: every branch of the reader, the constants of YaRN, parameter counts. */
#include "base/str.h"
#include "model/deepseek_v2.h"
#include "model/model.h"
#include "tests/test.h"
#include <stdlib.h>

#define BASE                                                                                                 \
    "\"model_type\":\"deepseek_v2\",\"vocab_size\":102400,\"hidden_size\":2048,\"num_hidden_layers\":27,"    \
    "\"num_attention_heads\":16,\"num_key_value_heads\":16,\"intermediate_size\":10944,\"kv_lora_rank\":"    \
    "512,"                                                                                                   \
    "\"qk_nope_head_dim\":128,\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"first_k_dense_replace\":1,"       \
    "\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-6,\"rope_theta\":10000,\"initializer_range\":0.02,"         \
    "\"max_position_embeddings\":163840,\"torch_dtype\":\"bfloat16\",\"tie_word_embeddings\":false"
#define MOE                                                                                                  \
    ",\"n_routed_experts\":64,\"moe_intermediate_size\":1408,\"num_experts_per_tok\":6,\"n_shared_"          \
    "experts\":2,"                                                                                           \
    "\"moe_layer_freq\":1,\"norm_topk_prob\":false,\"routed_scaling_factor\":1.0,\"topk_method\":"           \
    "\"greedy\","                                                                                            \
    "\"scoring_func\":\"softmax\",\"seq_aux\":true"
#define YARN                                                                                                 \
    ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"beta_fast\":32,\"beta_slow\":1,\"mscale\":0.707,"  \
    "\"mscale_all_dim\":0.707,\"original_max_position_embeddings\":4096}"
#define V2LITE                                                                                               \
    "{" BASE MOE YARN                                                                                        \
    ",\"aux_loss_alpha\":0.001,\"q_lora_rank\":null,\"bos_token_id\":100000,\"eos_token_id\":100001}"

static struct model_config parsed(const char *text)
{
    struct model_config m;
    struct err e = { 0 };
    EXPECTF(model_config_parse(text, strlen(text), "config.json", &m, &e), "%s", e.text);
    return m;
}

/* DeepSeek-V2-Lite: the check values are those of the published model code. */
TEST(yarn_of_v2_lite)
{
    const struct model_config m = parsed(V2LITE);
    const int at[] = { 0, 9, 10, 11, 12, 16, 22, 23, 31 };
    const double want[] = { 1,      0.0749894209,  0.0562341325,  0.0390069266, 0.0268793601,
                            0.0055, 1.77827941e-4, 3.33380358e-5, 3.33380358e-6 };
    double inv_freq[32], multiplier;
    model_rope_frequencies(&m, inv_freq, &multiplier);
    EXPECT(multiplier == 1);
    for (int i = 0; i < 9; i++)
        EXPECTF(fabs(inv_freq[at[i]] / want[i] - 1) < 1e-8, "inv_freq[%d] = %.10g, expected %.10g", at[i],
                inv_freq[at[i]], want[i]);
    EXPECTF(fabs(model_softmax_scale(&m) - 0.1147214) < 5e-8, "softmax scale %.9f", model_softmax_scale(&m));
}

TEST(flops_of_v2_lite)
{
    const struct model_config m = parsed(V2LITE);
    double honest, example;
    model_flops_per_token(&m, 2048, &honest, &example);
    EXPECTF(fabs(honest / 1e9 - 15.56) < 0.005, "%.4f GFLOP per token", honest / 1e9);
    EXPECT(example == 6.0 * (2661150208.0 - 126464)); /* all activated parameters but the norms */
}

TEST(parameters_of_v2_lite)
{
    const struct model_config m = parsed(V2LITE);
    const struct model_options o = { .batch = 1, .sequence = 8 };
    struct arena *a = arena_new("test");
    struct model_values v;
    struct err e = { 0 };
    const struct graph *g = deepseek_v2_graph(a, &m, &o, &v);
    int64_t n = 0, tensors = 0;
    for (int i = 0; i < g->params.n; i++) {
        n += g->params.item[i].n_elements;
        for (int j = 0; j < g->params.item[i].n_pieces; j++)
            tensors += g->params.item[i].piece[j].at == 0;
    }
    EXPECT_INT(n, 15706484224);
    EXPECT_INT(tensors, 5291);
    EXPECT_INT(v.n_moe, 26);
    EXPECTF(graph_check(g, &e), "%s", e.text);
    arena_free(a);
}

static void refused(const char *text, const char *part)
{
    struct model_config m;
    struct err e = { 0 };
    EXPECT(!model_config_parse(text, strlen(text), "config.json", &m, &e));
    EXPECTF(strstr(e.text, part) && strncmp(e.text, "config.json", 11) == 0 && e.code == EXIT_INPUT,
            "message '%s' (%d), expected '%s' in it", e.text, e.code, part);
}

TEST(wrong_fields_are_named)
{
    refused("{" BASE MOE YARN ",\"q_lora_rank\":null}", "aux_loss_alpha");
    refused("{" BASE MOE YARN ",\"aux_loss_alpha\":0.1,\"attention_bias\":true}", "attention_bias");
    refused("{" BASE MOE YARN ",\"aux_loss_alpha\":0.1,\"quantization_config\":{}}", "quantization_config");
    refused("{" BASE MOE ",\"aux_loss_alpha\":0.1,\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}",
            "yarn");
    refused("{" BASE MOE ",\"aux_loss_alpha\":0.1,\"rope_scaling\":{\"type\":\"yarn\"}}", "factor");
    refused("{" BASE MOE YARN ",\"aux_loss_alpha\":-1}", "aux_loss_alpha");
    refused("{" BASE MOE YARN ",\"aux_loss_alpha\":\"x\"}", "aux_loss_alpha");
    refused("{" BASE MOE YARN ",\"aux_loss_alpha\":0.1,\"q_lora_rank\":0}", "q_lora_rank");
    refused("{\"model_type\":\"gpt2\"}", "\"deepseek_v2\", \"llama\"");
    refused("[]", "object");
    refused("", "");
    refused("{" BASE MOE YARN ",\"aux_loss_alpha\":0.1,\"vocab_size\":1}", "vocab_size"); /* twice */
}

TEST(group_limits)
{
#define GROUPED(groups, kept)                                                                                \
    "{" BASE YARN                                                                                            \
    ",\"n_routed_experts\":64,\"moe_intermediate_size\":8,\"num_experts_per_tok\":6,\"moe_layer_freq\":1,"   \
    "\"norm_topk_prob\":true,\"routed_scaling_factor\":2.5,\"topk_method\":\"group_limited_greedy\","        \
    "\"scoring_func\":\"softmax\",\"seq_aux\":false,"                                                        \
    "\"aux_loss_alpha\":0.001,\"n_group\":" groups ",\"topk_group\":" kept "}"
    EXPECT_INT(parsed(GROUPED("8", "3")).topk_groups, 3);
    refused(GROUPED("7", "3"), "n_group");
    refused(GROUPED("32", "2"), "topk_group");
    refused(GROUPED("8", "9"), "topk_group");
}

/* Llama 3.1 8B */
#define LLAMA                                                                                                \
    "\"model_type\":\"llama\",\"vocab_size\":128256,\"hidden_size\":4096,\"num_hidden_layers\":32,"          \
    "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"intermediate_size\":14336,\"hidden_act\":"       \
    "\"silu\",\"rms_norm_eps\":1e-5,\"initializer_range\":0.02,\"max_position_embeddings\":131072,"          \
    "\"torch_dtype\":\"bfloat16\",\"tie_word_embeddings\":false,\"attention_bias\":false,\"eos_token_id\":"  \
    "[128001,128008]"
#define THETA ",\"rope_theta\":500000"
#define LLAMA3                                                                                               \
    "\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"                    \
    "\"original_max_position_embeddings\":8192"

/* Frequencies are those of transformers 5.24, in float32. */
TEST(llama_3_1)
{
    const struct model_config m = parsed("{" LLAMA THETA ",\"rope_scaling\":{" LLAMA3 "}}");
    const struct model_config newer =
        parsed("{" LLAMA ",\"head_dim\":128,\"rope_parameters\":{\"rope_theta\":500000," LLAMA3 "}}");
    const int at[] = { 0, 16, 28, 29, 30, 31, 33, 34, 35, 36, 37, 40, 63 };
    const double want[] = { 1,
                            0.0376060307,
                            0.00321144611,
                            0.00216657063,
                            0.00137189368,
                            0.00085675146,
                            0.00031269365,
                            0.000178507791,
                            9.55621217e-05,
                            7.78465546e-05,
                            6.34151438e-05,
                            3.42810235e-05,
                            3.06892588e-07 };
    double inv_freq[64], multiplier, honest, example;
    EXPECT(strcmp(m.fingerprint, newer.fingerprint) == 0);
    model_rope_frequencies(&m, inv_freq, &multiplier);
    EXPECT(multiplier == 1);
    for (int i = 0; i < (int)(sizeof at / sizeof *at); i++)
        EXPECTF(fabs(inv_freq[at[i]] / want[i] - 1) < 2e-6, "inv_freq[%d] = %.10g, expected %.10g", at[i],
                inv_freq[at[i]], want[i]);
    model_flops_per_token(&m, 2048, &honest, &example);
    EXPECT(example == 6.0 * (8030261248.0 - 65 * 4096)); /* all parameters but the norms */
}

TEST(parameters_of_llama_3_1)
{
    const struct model_config m = parsed("{" LLAMA THETA ",\"rope_scaling\":{" LLAMA3 "}}");
    const struct model_options o = { .batch = 1, .sequence = 8 };
    struct arena *a = arena_new("test");
    struct model_values v;
    struct err e = { 0 };
    const struct graph *g = model_graph(a, &m, &o, &v);
    int64_t n = 0, tensors = 0;
    for (int i = 0; i < g->params.n; i++) {
        n += g->params.item[i].n_elements;
        tensors += g->params.item[i].n_pieces;
    }
    EXPECT_INT(n, 8030261248);
    EXPECT_INT(tensors, 291);
    EXPECT_INT(v.n_moe, 0);
    EXPECTF(graph_check(g, &e), "%s", e.text);
    arena_free(a);
}

TEST(wrong_fields_of_llama_are_named)
{
    refused("{" LLAMA "}", "rope_theta");
    refused("{" LLAMA THETA ",\"rope_parameters\":{\"rope_theta\":1000,\"rope_type\":\"default\"}}", "1000");
    refused("{" LLAMA THETA ",\"mlp_bias\":true}", "mlp_bias");
    refused("{" LLAMA THETA ",\"kv_lora_rank\":8}", "kv_lora_rank");
    refused("{" LLAMA THETA ",\"head_dim\":7}", "head_dim");
    refused("{" LLAMA THETA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}", "linear");
    refused("{" LLAMA THETA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", "low_freq_factor");
    refused("{" LLAMA THETA ",\"rope_scaling\":{" LLAMA3 ",\"beta_fast\":1}}", "beta_fast");
    refused("{\"model_type\":\"llama\",\"vocab_size\":96,\"hidden_size\":40,\"num_hidden_layers\":1,"
            "\"num_attention_heads\":6,\"num_key_value_heads\":4,\"intermediate_size\":8,\"rms_norm_eps\":1,"
            "\"max_position_embeddings\":8,\"initializer_range\":1,\"tie_word_embeddings\":false}",
            "num_key_value_heads");
}
